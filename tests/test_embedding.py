"""An embedding whose batch names a row several times; its gradient is sparse on TensorFlow."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential

import keras_sam

WORDS, WIDTH, LENGTH = 7, 4, 6
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ADAPTIVE = pytest.mark.parametrize("adaptive", [False, True], ids=["plain", "adaptive"])


def make_optimizer(adaptive):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.5, adaptive=adaptive)


def network(first, **compile_options):
    head = [keras.layers.Activation("tanh"), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = SAMSequential([*first, *head])
    rng = np.random.default_rng(2)
    model.set_weights([0.5 * rng.normal(size=w.shape) for w in model.get_weights()])
    model.compile(loss=LOSS, **compile_options)
    return model


def embedded(**compile_options):
    return network([keras.Input((LENGTH,)), keras.layers.Embedding(WORDS, WIDTH)], **compile_options)


def one_hot_twin(**compile_options):
    return network([keras.Input((LENGTH, WORDS)), keras.layers.Dense(WIDTH, use_bias=False)], **compile_options)


@pytest.fixture
def batches():
    """Batches of words, as numbers and one-hot, with their labels. The last word never occurs."""
    rng = np.random.default_rng(4)
    words = rng.integers(0, WORDS - 1, (8, 5, LENGTH))
    words[:, :, 0] = words[:, :, 1] = 3  # twice in a sample, and in all of a batch
    labels = rng.integers(0, 3, (8, 5))
    return [(w, np.eye(WORDS, dtype="float32")[w], y) for w, y in zip(words, labels, strict=True)]


def assert_same_weights(model, twin):
    for found, expected in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eager", [False, True], ids=["default", "eager"])
@ADAPTIVE
def test_train_on_batch(batches, adaptive, eager):
    model = embedded(optimizer=make_optimizer(adaptive), run_eagerly=eager)
    twin = one_hot_twin(optimizer=make_optimizer(adaptive), run_eagerly=eager)
    start = model.get_weights()
    for words, one_hot, labels in batches:
        assert model.train_on_batch(words, labels) == pytest.approx(twin.train_on_batch(one_hot, labels), abs=1e-5)
        assert_same_weights(model, twin)
    moved = (model.get_weights()[0] != start[0]).any(axis=1)
    assert moved.tolist() == [True] * (WORDS - 1) + [False]


@ADAPTIVE
def test_hand_written_loop(batches, gradients_of, adaptive):
    model, twin = embedded(), one_hot_twin()
    optimizers = [make_optimizer(adaptive), make_optimizer(adaptive)]
    for words, one_hot, labels in batches:
        for network, optimizer, x in zip([model, twin], optimizers, [words, one_hot], strict=True):
            for step in (optimizer.first_step, optimizer.second_step):
                step(gradients_of(network, x, labels), network.trainable_variables)
        assert_same_weights(model, twin)
