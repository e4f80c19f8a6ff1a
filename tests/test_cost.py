"""A SAM step costs two gradients of the base step and is compiled once."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential

import keras_sam


def network(optimizer):
    model = SAMSequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(16, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Conv2D(32, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 16, 16, 3)).astype("float32"), rng.integers(0, 10, 64)


@pytest.mark.only("jax")
def test_step_costs_twice_the_base_step_in_flops(images):
    import jax

    def flops(optimizer):
        model = network(optimizer)
        model.train_on_batch(*images)
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = [[v.value for v in group] for group in variables]
        return jax.jit(model.train_step).lower(state, images).compile().cost_analysis()["flops"]

    base = flops(keras.optimizers.SGD(0.1, momentum=0.9))
    assert 1.9 < flops(keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))) / base <= 2.02


class CountedTraces(keras.layers.Layer):
    """Counts how often Python runs it, which compiled code does only while it is traced."""

    traces = 0

    def call(self, x):
        self.traces += 1
        return x


@pytest.mark.only("jax", "tensorflow")
def test_second_epoch_compiles_nothing(images):
    counter = CountedTraces()
    model = SAMSequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), counter, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras_sam.SAMOptimizer("adam"), loss=loss)
    model.fit(*images, batch_size=16, verbose=0)
    traced = counter.traces
    model.fit(*images, batch_size=16, epochs=2, verbose=0)
    assert counter.traces == traced
