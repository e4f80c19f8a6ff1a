"""What comes from which pass, and what a step that fails leaves behind."""

import keras
import numpy as np
import pytest
from conftest import MODES, Fragile, SAMFunctional, SAMSequential, weights_of
from keras import ops

import keras_sam


class Recorder(keras.layers.Layer):
    """Adds up the inputs it has seen in training, as a layer with statistics of its own might."""

    def build(self, shape):
        self.total = self.add_weight(shape=(), initializer="zeros", trainable=False, name="total")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.total.assign(self.total + ops.mean(x))
            self.calls.assign(self.calls + 1.0)
        return x


def sam(rho=0.5, learning_rate=0.1):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(learning_rate, momentum=0.9), rho=rho)


def test_statistics_move_once_and_come_from_the_clean_pass(mode, classification):
    x, y = classification
    model = SAMSequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(momentum=0.5),
            Recorder(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(sam(rho=3.0), "sparse_categorical_crossentropy", **mode)
    dense, norm, recorder = model.layers[:3]
    hidden = x @ dense.kernel.numpy() + dense.bias.numpy()  # at the weights before the step
    model.train_on_batch(x, y)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.5 * hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.5 + 0.5 * hidden.var(0), atol=1e-4)
    assert float(recorder.calls.numpy()) == 1.0


@pytest.mark.only("torch")
@pytest.mark.parametrize("fails", [False, True])
def test_statistics_of_a_torch_module_move_once(classification, fails, monkeypatch):
    import torch

    x, y = classification
    norm = torch.nn.BatchNorm1d(6, momentum=0.5)
    wrapper = keras.layers.TorchModuleWrapper(norm)
    model = SAMSequential([keras.Input((6,)), wrapper, keras.layers.Dense(3, activation="softmax")])
    model.compile(sam(rho=3.0), "sparse_categorical_crossentropy")
    if fails:
        monkeypatch.setattr(model.optimizer, "descent_gradients", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.train_on_batch(x, y)
    else:
        model.train_on_batch(x, y)
        assert (norm.weight != 1).all()  # it is trained
    mean = np.zeros(6) if fails else 0.5 * x.mean(0)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, atol=1e-6)
    assert int(norm.num_batches_tracked) == (not fails)


class Unbuilt(keras.Model):
    """Has its variables only after the first call."""

    def __init__(self):
        super().__init__()
        self.norm, self.dense = keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(3)

    def call(self, x, training=False):
        return ops.softmax(self.dense(self.norm(x, training=training)))


class SAMUnbuilt(keras_sam.SAMModel, Unbuilt):
    pass


def test_first_step_of_a_model_that_is_not_built(quick_mode, classification):
    x, y = classification
    model = SAMUnbuilt()
    model.compile(sam(rho=3.0), "sparse_categorical_crossentropy", metrics=["accuracy"], **quick_mode)
    model.train_on_batch(x, y)
    np.testing.assert_allclose(model.norm.moving_mean.numpy(), 0.5 * x.mean(0), atol=1e-6)
    model.fit(x, y, batch_size=len(x), verbose=0)
    np.testing.assert_allclose(model.norm.moving_mean.numpy(), 0.75 * x.mean(0), atol=1e-6)
    (accuracy,) = [m for m in model.metrics if m.name == "compile_metrics"]
    assert [float(v.numpy()) for v in accuracy.variables if v.name == "count"] == [len(x)]


def test_reported_loss_and_metrics_are_those_of_the_clean_pass(quick_mode, classification):
    x, y = classification
    model = SAMSequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(sam(rho=5.0), "sparse_categorical_crossentropy", metrics=["accuracy"], **quick_mode)
    expected = model.evaluate(x, y, batch_size=len(x), return_dict=True, verbose=0)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs.pop("sharpness") > 0.1
    assert logs == pytest.approx(expected, abs=1e-6)
    (accuracy,) = [m for m in model.metrics if m.name == "compile_metrics"]
    counted = [float(v.numpy()) for v in accuracy.variables if v.name == "count"]
    assert counted == [len(x)]  # not twice


@pytest.mark.parametrize("seed", [11, None], ids=["seeded", "unseeded"])
def test_dropout_masks_are_the_same_in_both_passes(seed, mode):
    # The loss is linear in w, its gradient the mask: with the same mask twice, rho changes nothing.
    def train(rho):
        keras.utils.set_random_seed(5)
        inputs = keras.Input((40,))
        outputs = keras.layers.Dense(1, use_bias=False)(keras.layers.Dropout(0.5, seed=seed)(inputs))
        model = SAMFunctional(inputs, outputs)
        optimizer = sam(rho) if rho is not None else keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, loss=lambda y, p: ops.mean(p), **mode)
        keras.utils.set_random_seed(6)
        steps = []
        for _ in range(4):
            model.train_on_batch(np.ones((8, 40), "float32"), np.zeros((8, 1)))
            steps.append(model.layers[-1].kernel.numpy())
        return np.array(steps)

    plain = train(None)
    assert np.abs(np.diff(plain, axis=0)).max() > 0.01  # the masks differ from step to step
    np.testing.assert_allclose(train(rho=2.0), plain, atol=1e-5)


class UnseededNoise(keras.layers.Layer):
    def call(self, x, training=False):
        return x * keras.random.uniform(ops.shape(x)) if training else x


@pytest.mark.only("tensorflow", "torch")  # JAX refuses the global generator in a compiled step
def test_draws_from_the_global_generator_are_the_same_in_both_passes(mode):
    def train(rho):
        keras.utils.set_random_seed(5)
        model = SAMSequential([keras.Input((40,)), UnseededNoise(), keras.layers.Dense(1, use_bias=False)])
        model.compile(sam(rho), loss=lambda y, p: ops.mean(p), **mode)
        for _ in range(3):
            model.train_on_batch(np.ones((8, 40), "float32"), np.zeros((8, 1)))
        return model.layers[-1].kernel.numpy()

    np.testing.assert_allclose(train(2.0), train(0.0), atol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("call", ["train_on_batch", "fit"])
@pytest.mark.parametrize("failing_pass", [1, 2])
def test_a_failing_step_leaves_everything_as_before(classification, error, call, failing_pass):
    x, y = classification

    def make():
        keras.utils.set_random_seed(1)
        fragile = Fragile(error)
        model = SAMSequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3, seed=4),
                fragile,
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(sam(), "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
        return model, fragile

    def state(model):
        variables = [*model.weights, *model.non_trainable_variables, *model.optimizer.base_optimizer.variables]
        return np.concatenate([np.ravel(v.numpy()).astype("float64") for v in variables])

    model, fragile = make()
    model.train_on_batch(x, y)
    before = state(model)
    fragile.countdown = failing_pass
    options = {"batch_size": len(x), "verbose": 0} if call == "fit" else {}
    with pytest.raises(type(error)):
        getattr(model, call)(x, y, **options)
    np.testing.assert_allclose(state(model), before, atol=1e-7, rtol=0)
    if call == "train_on_batch":  # it resets the metrics before its step
        assert all(float(np.sum(v.numpy())) == 0.0 for v in model.metrics_variables)

    undisturbed, _ = make()
    undisturbed.train_on_batch(x, y)
    for each in (model, undisturbed):
        each.train_on_batch(x, y)
    np.testing.assert_allclose(weights_of(model), weights_of(undisturbed), atol=1e-6)


@pytest.mark.only("tensorflow", "jax")  # Keras does not offer it on PyTorch
def test_several_steps_per_execution(noisy_network, classification):
    x, y = classification
    found = []
    for steps in (1, 4):
        model = noisy_network(sam(), steps_per_execution=steps)
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        found.append(weights_of(model))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_modes_agree(noisy_network, classification):
    x, y = classification
    # XLA draws other random numbers than TensorFlow's own kernels, and torch.compile than PyTorch's.
    rate = 0.3 if keras.backend.backend() == "jax" else 0.0
    found = []
    for mode in MODES.values():
        model = noisy_network(sam(), dropout=rate, **mode)
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        found.append(weights_of(model))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
