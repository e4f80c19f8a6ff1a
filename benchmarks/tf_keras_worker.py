"""Steps of legacy Keras, one for each line `step NAME` that comes in; `load NAME FILE` and `save NAME FILE` weights.

Usage: tf_keras_worker.py NETWORK BATCH_SIZE
"""

import sys

import tf_keras

sys.modules["keras"] = tf_keras  # so that the networks are built of its layers

import numpy as np  # noqa: E402
from models import NETWORKS  # noqa: E402


def make(network: str, sam: bool) -> tf_keras.Model:
    """The network with SGD, or with SAM around it."""
    tf_keras.utils.set_random_seed(0)
    build, shape = NETWORKS[network]
    model = build(shape, 10)
    if sam:
        model = tf_keras.models.experimental.SharpnessAwareMinimization(model, rho=0.05)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=True)
    return model


if __name__ == "__main__":
    network, size = sys.argv[1], int(sys.argv[2])
    rng, shape = np.random.default_rng(0), NETWORKS[network][1]
    tokens = network == "transformer"
    x = rng.integers(0, 1000, (size, *shape)) if tokens else rng.normal(size=(size, *shape)).astype("float32")
    y = rng.integers(0, 10, size).astype("int32")
    contenders = {"SGD": make(network, sam=False), "SharpnessAwareMinimization": make(network, sam=True)}
    for line in sys.stdin:
        command, name, *path = line.split()
        model = contenders[name]
        inner = getattr(model, "model", model)  # SAM is a model around the model
        if command == "step":
            model.train_on_batch(x, y)
        elif command == "load":
            with np.load(*path) as file:
                inner.set_weights([file[f"arr_{i}"] for i in range(len(file.files))])
        else:
            np.savez(*path, *inner.get_weights())
        print("done", flush=True)
