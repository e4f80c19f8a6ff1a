"""The peers take the same steps as we do, so that the comparison of costs is one of equals."""

from contextlib import ExitStack

import keras
import numpy as np
import peers
import pytest
from step_cost import batch

import keras_sam

pytestmark = pytest.mark.peer
OURS = {
    "SAM": keras_sam.SAMOptimizer,
    "sam": keras_sam.SAMOptimizer,
    "SharpnessAwareMinimization": keras_sam.SAMOptimizer,
    "WSAM": keras_sam.WSAMOptimizer,
    "GSAM": keras_sam.GSAMOptimizer,
}


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_same_weights_after_five_steps(stack):
    """From the same initial weights, on a network without batch norm and dropout."""
    x, y = batch("mlp", 16)
    compared = []
    for peer in peers.PEERS[keras.backend.backend()]("mlp", x, y, stack):
        model = keras_sam.as_sam_model(peers.make_model("mlp"))
        optimizer = keras.optimizers.SGD(peers.LEARNING_RATE, momentum=peers.MOMENTUM)
        name = peer.name.replace(".", " ").split()[-1]
        if name != "SGD":
            optimizer = OURS[name](optimizer, rho=peers.RHO)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        start = model.get_weights()
        for _ in range(5):
            peer.step()
            model.train_on_batch(x, y)
        for found, ours, before in zip(peer.weights(), model.get_weights(), start, strict=True):
            np.testing.assert_allclose(found, ours, rtol=0, atol=2e-5, err_msg=peer.name)
            assert np.abs(ours - before).max() > 1e-4
        compared.append(name)
    assert "SGD" in compared
    assert len(compared) >= 2


def zero_gradients_of_optax(monkeypatch, stack):
    """All weights of a network whose output does not depend on them, after one step."""
    build = lambda shape, classes: keras.Sequential(  # noqa: E731
        [keras.Input(shape), keras.layers.Rescaling(0.0), keras.layers.Dense(classes, use_bias=False)]
    )
    monkeypatch.setitem(peers.NETWORKS, "constant", (build, (4,)))
    _, sam = peers.optax_peers("constant", np.ones((8, 4), "float32"), np.zeros(8, "int32"), stack)
    sam.step()
    return [bool(np.isnan(w).all()) for w in sam.weights()], [True]


def passes_that_move_statistics_on_torch(monkeypatch, stack):
    """How often the statistics of a network move in one step of each peer."""
    moves = []

    class Statistics(keras.layers.Layer):
        def call(self, x, training=False):
            moves.append(training)
            return x

    build = lambda shape, classes: keras.Sequential(  # noqa: E731
        [keras.Input(shape), Statistics(), keras.layers.Dense(classes)]
    )
    monkeypatch.setitem(peers.NETWORKS, "statistics", (build, (4,)))
    found = []
    for peer in peers.torch_peers("statistics", np.ones((8, 4), "float32"), np.zeros(8, "int32"), stack):
        moves.clear()
        peer.step()
        found.append(moves.count(True))
    return found, [1, 2, 2, 2]


def passes_in_training_mode_of_tf_keras(monkeypatch, stack):
    """Whether each pass of a step trains, as its layers see it."""
    import tf_keras

    modes = []

    class Mode(tf_keras.layers.Layer):
        def call(self, x, training=False):
            modes.append(bool(training))
            return x

    model = tf_keras.Sequential([tf_keras.Input((4,)), Mode(), tf_keras.layers.Dense(1)])
    sam = tf_keras.models.experimental.SharpnessAwareMinimization(model)
    sam.compile("sgd", "mse", run_eagerly=True)
    modes.clear()
    sam.train_on_batch(np.ones((8, 4), "float32"), np.ones(8, "float32"))
    return modes, [False, True]


def test_the_defects_that_the_table_names(monkeypatch, stack):
    """On each backend, that of its peers."""
    defects = {
        "jax": zero_gradients_of_optax,
        "torch": passes_that_move_statistics_on_torch,
        "tensorflow": passes_in_training_mode_of_tf_keras,
    }
    found, expected = defects[keras.backend.backend()](monkeypatch, stack)
    assert found == expected
