"""The memory that SAM needs beyond its base optimizer: one copy of the weights, the perturbation."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import SAMSequential
from keras import layers

import keras_sam

ALLOWED = 1.1  # copies of the weights


def perceptron():
    return [keras.Input((64,)), *[layers.Dense(256, activation="relu") for _ in range(4)], layers.Dense(10)]


def convolutions():
    hidden = [
        layer
        for _ in range(4)
        for layer in (layers.Conv2D(32, 3, padding="same"), layers.BatchNormalization(), layers.Activation("relu"))
    ]
    return [keras.Input((8, 8, 3)), *hidden, layers.Flatten(), layers.Dense(10)]


BASES = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(global_clipnorm=1.0),
}


@pytest.mark.only("jax")
@pytest.mark.parametrize("network", [perceptron, convolutions])
@pytest.mark.parametrize("base", BASES)
def test_compiled_step(network, base):
    """As XLA accounts for it: arguments, results that reuse no argument, and intermediate values."""
    import jax

    def needed(optimizer):
        model = SAMSequential(network())
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batch = np.zeros((32, *model.input_shape[1:]), "float32"), np.zeros(32, "int32")
        model.train_on_batch(*batch)
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = [[v.value for v in group] for group in groups]
        analysis = jax.jit(model.train_step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
        total = (
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
            + analysis.temp_size_in_bytes
        )
        return total, sum(v.value.nbytes for v in model.trainable_variables)

    (sam, weights), (plain, _) = needed(keras_sam.SAMOptimizer(BASES[base]())), needed(BASES[base]())
    assert sam <= plain + ALLOWED * weights


@pytest.mark.only("torch")
def test_allocations():
    """As the allocator counts them, in a process of its own: what ran before would change the peak."""
    worker = Path(__file__).parent / "workers" / "torch_memory.py"
    result = subprocess.run([sys.executable, worker], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    sam, plain, weights = map(int, result.stdout.split())
    assert 0 < sam <= plain + ALLOWED * weights
