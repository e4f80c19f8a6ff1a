"""Steps that climb and steps that do not, in turn, wherever the choice between them is made."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential

import keras_sam

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 6)).astype("float32"), RNG.integers(0, 3, 80)
ROOM = {"batch_size": 8, "shuffle": False, "verbose": 0}

pytestmark = pytest.mark.only("tensorflow", "jax")  # PyTorch chooses in Python


def make(base=None, interval=3, model_class=SAMSequential, **compile_options):
    keras.utils.set_random_seed(0)
    model = model_class([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
    base = base() if base else keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(keras_sam.LookSAMOptimizer(base, rho=0.5, interval=interval), LOSS, **compile_options)
    return model


class CountedAnew(keras.callbacks.Callback):
    """Sets the iteration in the middle of an epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 5:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            self.model.optimizer.iterations.assign(1)


class LoadedAtFirst(keras.callbacks.Callback):
    """Loads a model's weights and its optimizer when training has begun, as `BackupAndRestore` does."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        self.model.load_weights(self.path)


def again(model, path):
    for samples in (32, 40, 8):
        model.fit(X[:samples], Y[:samples], **ROOM)
    return model


def loaded(model, path):
    model.fit(X[:32], Y[:32], **ROOM)
    model.save(path / "model.keras")
    eager = model.run_eagerly
    model = keras.saving.load_model(path / "model.keras", {"SAMSequential": SAMSequential})
    model.run_eagerly = eager
    model.fit(X, Y, **ROOM)
    return model


def weights_loaded(model, path):
    model.fit(X[:32], Y[:32], **ROOM)
    model.save_weights(path / "kept.weights.h5")
    model.fit(X[:16], Y[:16], **ROOM)
    model.fit(X, Y, callbacks=[LoadedAtFirst(path / "kept.weights.h5")], **ROOM)
    return model


def counted_anew(model, path):
    model.fit(X, Y, callbacks=[CountedAnew()], **ROOM)
    return model


def batch_by_batch(model, path):
    for begin in range(0, 80, 8):
        model.train_on_batch(X[begin : begin + 8], Y[begin : begin + 8])
        if begin == 32:
            model.optimizer.iterations.assign(0)
            model.fit(X[:8], Y[:8], **ROOM)
    return model


def two_epochs(model, path):
    model.fit(X, Y, epochs=2, **ROOM)
    return model


@pytest.mark.parametrize("train", [two_epochs, again, loaded, weights_loaded, counted_anew, batch_by_batch])
def test_steps_that_climb_are_those_of_an_eager_run(train, tmp_path):
    found, expected = (train(make(run_eagerly=eager), tmp_path) for eager in (False, True))
    assert int(found.optimizer.iterations) == int(expected.optimizer.iterations)
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


BASES = {
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "several": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {".*bias": keras.optimizers.SGD(0.2)})
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("base", BASES)
def test_whatever_the_base_optimizer_counts(base):
    x = X.copy()
    if base == "loss scale":
        x[32:40] = np.nan  # a step that it skips, and does not count
    models = [make(BASES[base], run_eagerly=eager) for eager in (False, True)]
    for model in models:
        model.fit(x, Y, epochs=2, **ROOM)
    found, expected = models
    assert int(found.optimizer.iterations) == int(expected.optimizer.iterations)
    assert int(found.optimizer.iterations) == {"accumulation": 10, "several": 20, "loss scale": 18}[base]
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [3, 4])
def test_several_steps_an_execution(steps):
    models = [make(run_eagerly=True), make(steps_per_execution=steps)]
    for model in models:
        model.fit(X, Y, epochs=2, **ROOM)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.only("jax")
@pytest.mark.parametrize("accumulated", [None, 2])
def test_steps_that_may_skip_their_update_are_counted_as_they_are(accumulated):
    import jax

    class Skips(keras.Sequential):
        def train_step(self, state, data):
            weights, others, optimizer_state, metrics = state
            x, y = data

            def loss(weights):
                predicted, _ = self.stateless_call(weights, others, x)
                return LOSS(y, predicted)

            gradients = jax.grad(loss)(weights)

            def step(weights, state):
                return self.optimizer.stateless_apply(state, gradients, weights)

            weights, optimizer_state = jax.lax.cond(
                x[0, 0] > 0.3, step, lambda weights, state: (weights, state), weights, optimizer_state
            )
            return {}, (weights, others, optimizer_state, metrics)

    class SAMSkips(keras_sam.SAMModel, Skips):
        pass

    assert 2 < np.sum(X[::8, 0] <= 0.3) < 8
    base = lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)  # noqa: E731
    models = [make(base, model_class=SAMSkips, run_eagerly=eager) for eager in (False, True)]
    for model in models:
        model.fit(X, Y, epochs=2, **ROOM)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.only("jax")
def test_the_choice_does_not_wait_for_the_device(monkeypatch):
    import jax

    array_class, reads = type(jax.numpy.zeros(())), []
    read = array_class._value
    monkeypatch.setattr(array_class, "_value", property(lambda array: (reads.append(array.shape), read.fget(array))[1]))

    model = make()
    model.fit(X[:16], Y[:16], **ROOM)
    assert reads  # the first count
    reads.clear()
    model.fit(X, Y, epochs=2, **ROOM)
    assert not reads
