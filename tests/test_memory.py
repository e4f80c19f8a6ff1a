"""The memory that SAM needs beyond its base optimizer: one copy of the weights, the perturbation."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential

import keras_sam


def network(optimizer):
    keras.utils.set_random_seed(0)
    model = SAMSequential(
        [
            keras.Input((16, 16, 3)),
            *[keras.layers.Conv2D(64, 3, padding="same", activation="relu") for _ in range(5)],
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    return model


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 16, 16, 3)).astype("float32"), rng.integers(0, 10, 32)


def base():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def weight_bytes(model):
    return sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.only("torch")
def test_peak_memory_on_torch(batch):
    import torch

    def peak(optimizer):
        model = network(optimizer)
        for _ in range(2):
            model.train_on_batch(*batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            model.train_on_batch(*batch)
        level = highest = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                level += event.nbytes()
                highest = max(highest, level)
        state = sum(4 * int(np.prod(v.shape)) for v in (*model.trainable_variables, *model.optimizer.variables))
        return state + highest, weight_bytes(model)

    (sam, weights), (plain, _) = peak(keras_sam.SAMOptimizer(base())), peak(base())
    assert sam <= plain + 1.1 * weights
