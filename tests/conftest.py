"""What the tests share: seeds, and the small networks they train."""

import keras
import numpy as np
import pytest
import reference

import keras_sam


def pytest_addoption(parser):
    parser.addoption("--peers", action="store_true", help="run the tests that need the packages to migrate from, too")


def pytest_collection_modifyitems(config, items):
    """Leave out tests of another backend's own modes, such as `tf.function`, and of packages nobody asked for."""

    def belongs(item):
        if item.get_closest_marker("peer") and not config.getoption("peers"):
            return False
        return all(keras.backend.backend() in marker.args for marker in item.iter_markers("only"))

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = [item for item in items if belongs(item)]


# A radius that is 0 in float32, at which a step makes both its runs all the same: at 0.0 it makes one.
NOTHING = 1e-300

MODES = {"default": {}, "eager": {"run_eagerly": True}, "compiled": {"jit_compile": True}}


@pytest.fixture(params=MODES)
def mode(request):
    """How a model is compiled."""
    return MODES[request.param]


# PyTorch takes half a minute to compile a Keras step, so there a few tests do it for all.
COMPILED_ELSEWHERE = pytest.param("compiled", marks=pytest.mark.only("tensorflow", "jax"))


@pytest.fixture(params=["default", "eager", COMPILED_ELSEWHERE])
def quick_mode(request):
    """How a model is compiled, where that takes no time."""
    return MODES[request.param]


class SAMSequential(keras_sam.SAMModel, keras.Sequential):
    """A Sequential that trains with SAM."""


class SAMFunctional(keras_sam.SAMModel, keras.Model):
    """A functional model that trains with SAM."""


class CountedTraces(keras.layers.Layer):
    """Counts how often Python runs it, which compiled code does only while it is traced."""

    traces = 0

    def call(self, x):
        self.traces += 1
        return x


class Fragile(keras.layers.Layer):
    """Raises in the call that `countdown` reaches."""

    def __init__(self, error):
        super().__init__()
        self.error, self.countdown = error, -1

    def call(self, x, training=False):
        if training:
            self.countdown -= 1
            if self.countdown == 0:
                raise self.error
        return x


@pytest.fixture(autouse=True)
def _fresh_state():
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture
def two_layer():
    """Makes the network of the published trajectories, with its initial weights."""

    def make(optimizer, **compile_options):
        model = SAMSequential(
            [keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)],
        )
        model.set_weights(reference.unflatten(reference.TRAJECTORIES["initial"]))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, **compile_options)
        return model

    return make


@pytest.fixture
def batches():
    """The eight batches of the published trajectories."""
    x, y = reference.TRAJECTORIES["x"].astype("float32"), reference.TRAJECTORIES["y"]
    return list(zip(x, y, strict=True))


@pytest.fixture
def noisy_network():
    """Makes a classifier with batch norm and dropout."""

    def make(optimizer, dropout=0.3, **compile_options):
        keras.utils.set_random_seed(1)
        model = SAMSequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(16, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.Activation("relu"),
                keras.layers.Dropout(dropout, seed=7),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, metrics=["accuracy"], **compile_options)
        return model

    return make


def weights_of(model):
    """All of a model's variables in one flat float64 vector."""
    return reference.flatten(model.get_weights())


@pytest.fixture
def classification():
    """96 samples of six features in three classes, hard enough to have a gradient."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(96, 6)).astype("float32")
    y = (x[:, :3] + 0.5 * rng.normal(size=(96, 3))).argmax(-1).astype("int32")
    return x, y


@pytest.fixture
def gradients_of():
    """The gradients of a model's loss on a batch, by the backend's own differentiation."""
    backend = keras.backend.backend()

    def tensorflow(model, x, y):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    def torch(model, x, y):
        model.zero_grad()
        model.compute_loss(x, keras.ops.convert_to_tensor(y), model(x, training=True)).backward()
        return [v.value.grad for v in model.trainable_variables]

    def jax(model, x, y):
        import jax

        def loss(weights):
            state = zip(model.trainable_variables, weights, strict=True)
            with keras.StatelessScope(state_mapping=state):
                return model.compute_loss(x, y, model(x, training=True))

        return jax.grad(loss)([v.value for v in model.trainable_variables])

    return {"tensorflow": tensorflow, "torch": torch, "jax": jax}[backend]
