"""What every worker trains: a small network with batches of sixteen, twenty steps at rho 0.3."""

import json
import os

import keras
import numpy as np

import keras_sam

STEPS, BATCH, RHO = 20, 16, 0.3


class Network(keras_sam.SAMModel, keras.Sequential):
    """A Sequential that trains with SAM."""


def optimizer(**options):
    """SAM, or the class that the environment names, with the options that it has."""
    name = os.environ.get("ALGORITHM", "SAMOptimizer")
    algorithm, options = getattr(keras_sam, name), options | json.loads(os.environ.get("OPTIONS", "{}"))
    if name == "BayesianSAMOptimizer":
        options |= {"num_data": STEPS * BATCH, "seed": 1}
    return algorithm(keras.optimizers.SGD(0.1, momentum=0.9), rho=RHO, **options)


def network(optimizer=None):
    keras.utils.set_random_seed(0)
    model = Network(
        [keras.Input((6,)), keras.layers.Dense(8, activation="tanh", name="hidden"), keras.layers.Dense(4, name="out")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or "sgd", loss, **json.loads(os.environ.get("COMPILE_OPTIONS", "{}")))
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 6)).astype("float32")
    return x, rng.integers(0, 4, STEPS * BATCH).astype("int32")


def batches():
    x, y = data()
    return zip(x.reshape(STEPS, BATCH, 6), y.reshape(STEPS, BATCH), strict=True)


def save(path, weights, **more):
    np.savez(path, *[np.asarray(w) for w in weights], **{name: np.asarray(value) for name, value in more.items()})
