"""What a step with SAM makes of a training step of the user's own: what it writes, skips and fails at happens once."""

import functools

import keras
import numpy as np
import own_steps
import pytest
from conftest import MODES, NOTHING, Fragile, SAMSequential, weights_of
from keras import ops
from own_steps import plain_and_sam, sam_of, trained

import keras_sam

BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD
Dense = keras.layers.Dense
ALGORITHMS = {
    "sam": keras_sam.SAMOptimizer,
    "gsam": keras_sam.GSAMOptimizer,
    "msam": keras_sam.MSAMOptimizer,
}
REMEMBERING = {
    **ALGORITHMS,
    "looksam": functools.partial(keras_sam.LookSAMOptimizer, interval=1),
    "vasso": keras_sam.VaSSOOptimizer,
    "friendly": keras_sam.FriendlySAMOptimizer,
    "bayesian": functools.partial(keras_sam.BayesianSAMOptimizer, num_data=50, seed=1),
    "parts": functools.partial(keras_sam.VaSSOOptimizer, num_batch_splits=2),
}
three = pytest.mark.parametrize("algorithm", ALGORITHMS)


# A batch that is skipped.


class Skipping(own_steps.OwnStep):
    """Takes only batches on which it is good: at the perturbed weights it is not."""

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([keras.Input((1,)), Dense(1, kernel_initializer="ones", use_bias=False)])
        self.bound = keras.Variable(2.0, trainable=False)

    def call(self, x):
        return self.network(x)

    def loss_of(self, x, y):
        return ops.mean(self.network(x) ** 2)

    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        loss, gradients = self.differentiate(lambda: self.loss_of(x, y), self.trainable_variables)
        self.update(self.optimizer, gradients, self.trainable_variables, loss < self.bound.value)
        return {"objective": loss}


@pytest.mark.parametrize("name", ["sam", "gsam", "msam", "vasso", "looksam", "bayesian"])
def test_a_batch_that_is_skipped_changes_nothing(name, quick_mode):
    optimizer = REMEMBERING[name](SGD(0.5), rho=1.0)
    model = sam_of(Skipping)()
    model.compile(optimizer, **quick_mode)
    x, y = np.ones((8, 1), "float32"), np.zeros((8, 1), "float32")

    def state():
        remembered = [v for v in optimizer.variables if not any(v is slot for slot in optimizer.perturbations)]
        remembered = [v for v in remembered if "seed_generator" not in v.path]  # which moves on with each draw
        return [ops.convert_to_numpy(v).copy() for v in (*model.trainable_variables, *remembered)]

    model.bound.assign(100.0)
    model.fit(x, y, verbose=0)  # taken
    assert float(ops.convert_to_numpy(model.trainable_variables[0]).item()) < 0.9
    model.trainable_variables[0].assign([[1.0]])
    # The loss at the weights is 1, at the perturbed ones 4; but MSAM's, for which there are no others, is 0.
    model.bound.assign(-1.0 if name == "msam" else 2.0)
    before = state()
    for _ in range(2):
        model.fit(x, y, verbose=0)
        for found, expected in zip(state(), before, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-7)


# What a step writes that is not the model's.


class AveragingLoss(keras.losses.Loss):
    """Divides by an average of itself."""

    def __init__(self):
        super().__init__()
        self.average = keras.Variable(1.0, trainable=False)

    def call(self, y_true, y_pred):
        loss = ops.mean((y_true - y_pred) ** 2, -1)
        self.average.assign(0.9 * self.average + 0.1 * ops.stop_gradient(ops.mean(loss)))
        return loss / self.average


class Helper:
    """Not a layer: Keras knows nothing of what it holds."""

    def __init__(self):
        self.count = keras.Variable(0.0, trainable=False)


class Counting(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.helper = Helper()

    def call(self, x, training=False):
        if training:
            self.helper.count.assign(self.helper.count + 1)
        return x


@pytest.mark.only("tensorflow", "torch")  # on JAX such variables never move, with or without SAM
@pytest.mark.parametrize(
    ("algorithm", "mode"),  # PyTorch compiles for half a minute
    [(a, m) for a in ALGORITHMS for m in MODES if BACKEND != "torch" or m != "compiled" or a == "sam"],
)
def test_variables_that_the_model_does_not_have_move_once(algorithm, mode):
    found = []
    for optimizer in (SGD(0.1), ALGORITHMS[algorithm](SGD(0.1), rho=NOTHING)):
        keras.utils.set_random_seed(0)
        counting, loss = Counting(), AveragingLoss()
        model = SAMSequential([keras.Input((5,)), counting, Dense(2)])
        trained(model, optimizer, loss=loss, **MODES[mode])
        assert float(ops.convert_to_numpy(counting.helper.count)) == 3.0
        found.append([float(ops.convert_to_numpy(loss.average)), *weights_of(model)])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.only("torch")
@three
def test_buffers_of_a_layer_move_once(algorithm):
    import torch

    class Buffered(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(()))

        def call(self, x, training=False):
            if training:
                self.total += x.detach().mean()
            return x

    layers = [keras.Input((5,)), keras.Sequential([keras.Input((5,)), Buffered()]), Dense(2)]
    model = trained(SAMSequential(layers), ALGORITHMS[algorithm](SGD(0.1), rho=0.5), loss="mse")
    buffered = model.layers[0].layers[0]
    x, _ = own_steps.data(24)
    assert float(buffered.total) == pytest.approx(sum(x[i : i + 8].mean() for i in (0, 8, 16)), abs=1e-6)


class Normalizing(Dense):
    """Writes its kernel in the forward pass, as a spectral normalization does, by a rule of its own."""

    def call(self, x, training=False):
        if training:
            kernel = ops.stop_gradient(self.kernel)
            self.kernel.assign(2.0 * kernel / ops.sqrt(ops.sum(kernel**2)))
        return super().call(x)


def spectral():
    return keras.layers.SpectralNormalization(Dense(2))


@pytest.mark.only("tensorflow", "torch")  # on JAX Keras drops what is written to weights
@pytest.mark.parametrize("layer", [spectral, lambda: Normalizing(2)], ids=["spectral", "own"])
@pytest.mark.parametrize("algorithm", ["sam", "gsam"])
def test_weights_written_in_the_forward_pass_are_those_of_the_clean_run(layer, algorithm, quick_mode):
    """At a learning rate of 0 the plain model's kernels come to rest."""
    found = []
    for optimizer in (SGD(0.0), ALGORITHMS[algorithm](SGD(0.0), rho=0.5)):
        keras.utils.set_random_seed(0)
        model = SAMSequential([keras.Input((5,)), Dense(4, activation="tanh"), layer()])
        start = weights_of(model)
        found.append(weights_of(trained(model, optimizer, 10, loss="mse", **quick_mode)))
    assert np.abs(found[0] - start).max() > 0.01
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


@pytest.mark.only("tensorflow", "torch")
def test_msam_takes_its_perturbation_back_at_the_scale_that_a_layer_gave_it(quick_mode):
    """Its only run is at the perturbed weights: k + e becomes 2 (k + e) / |k + e|, of which the part of k stays."""
    model = SAMSequential([keras.Input((5,)), Normalizing(2, use_bias=False)])
    optimizer = keras_sam.MSAMOptimizer(SGD(0.0), rho=0.5)
    trained(model, optimizer, 1, loss="mse", **quick_mode)
    kernel, velocity = weights_of(model), ops.convert_to_numpy(optimizer.velocities.variables[0]).ravel()
    assert np.linalg.norm(kernel) == pytest.approx(2.0, abs=1e-5)  # no velocity yet
    model.fit(*own_steps.data(8), batch_size=8, verbose=0)
    e = 0.5 * velocity / np.linalg.norm(velocity)
    np.testing.assert_allclose(weights_of(model), 2.0 * kernel / np.linalg.norm(kernel + e), atol=1e-5)


@pytest.mark.only("tensorflow", "torch")
def test_bayesian_sam_takes_its_noise_back_at_the_scale_that_a_layer_gave_it(quick_mode):
    model = SAMSequential([keras.Input((5,)), Normalizing(2, use_bias=False)])
    optimizer = keras_sam.BayesianSAMOptimizer(SGD(0.0), rho=0.5, num_data=5, seed=1)
    trained(model, optimizer, 1, loss="mse", **quick_mode)
    kernel = weights_of(model)
    model.fit(*own_steps.data(8), batch_size=8, verbose=0)
    found = weights_of(model)
    np.testing.assert_allclose(found / np.linalg.norm(found), kernel / np.linalg.norm(kernel), atol=1e-5)
    assert 0.005 < abs(np.linalg.norm(found) / 2.0 - 1) < 0.5  # the noise counts in the norm that becomes 2


@pytest.mark.only("tensorflow", "torch")  # on JAX they are values
def test_gradients_handed_over_in_variables():
    """Which are put back after the asking run, before their values are used."""

    class Held(own_steps.Accumulation):
        def update(self, optimizer, gradients, variables, full):
            for total in self.sums:
                total.assign(total / 2)
            held = [total.value for total in self.sums]
            super().update(optimizer, held, variables, full)
            for total in self.sums:
                total.assign(total * 2)

    for mode in ({}, {"run_eagerly": True}):
        found = []
        for cls in (own_steps.Accumulation, Held):
            keras.utils.set_random_seed(0)
            model = trained(sam_of(cls)(), keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 4, **mode)
            found.append(weights_of(model))
        np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.only("tensorflow")
@three
def test_raw_variables_of_tensorflow(algorithm, quick_mode):
    """Gradients accumulated as a well-known recipe of tf.keras does it."""
    import tensorflow as tf

    class Recipe(own_steps.Regression):
        def __init__(self):
            super().__init__()
            self.counters = {"batches": tf.Variable(0, trainable=False)}
            self.sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.network.trainable_variables]

        def train_step(self, data):
            self.counters["batches"].assign_add(1)
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.loss_of(x, y)
            for total, gradient in zip(self.sums, tape.gradient(loss, self.trainable_variables), strict=True):
                total.assign_add(gradient / 2)
            tf.cond(self.counters["batches"] % 2 == 0, self.apply_sums, lambda: None)
            return {"objective": loss}

        def apply_sums(self):
            self.optimizer.apply_gradients(zip(self.sums, self.trainable_variables, strict=True))
            for total in self.sums:
                total.assign(tf.zeros_like(total))

    plain, sam = plain_and_sam(Recipe, ALGORITHMS[algorithm](SGD(0.1), rho=NOTHING), steps=4, **quick_mode)
    for a, b in zip(plain, sam, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    if algorithm == "sam":
        found = []
        for cls in (own_steps.Accumulation, Recipe):
            keras.utils.set_random_seed(0)
            model = trained(sam_of(cls)(), keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 4, **quick_mode)
            found.append(np.concatenate([w.numpy().ravel() for w in model.trainable_variables]))
        np.testing.assert_allclose(*found, atol=1e-6)


def test_what_python_alone_knows_of_is_counted_in_both_runs():
    elsewhere = []
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        elsewhere.append(tf.Variable(0.0))

    class Counting(own_steps.Regression):
        def __init__(self):
            super().__init__()
            self.runs, self.tensor = 0, ops.zeros(())

        def step(self, batch):
            self.runs += 1
            self.tensor = self.tensor + 1.0
            for variable in elsewhere:
                variable.assign_add(1.0)
            return super().step(batch)

    model = trained(sam_of(Counting)(), keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 4, run_eagerly=True)
    assert model.runs == int(model.tensor) == 8
    assert all(int(variable) == 8 for variable in elsewhere)


# Methods that a model keeps.


class Dispatching(own_steps.Regression):
    """Chooses its step in the constructor, in one of several ways."""

    way = None

    def __init__(self):
        super().__init__()
        self.chosen = {
            "attribute": lambda: self.my_step,
            "dict": lambda: {"step": self.my_step},
            "list": lambda: [self.my_step],
            "partial": lambda: functools.partial(self.my_step),
            "closure": lambda: lambda batch: self.my_step(batch),
        }[self.way]()

    def step(self, batch):
        chosen = self.chosen
        if self.way in ("dict", "list"):
            chosen = chosen["step" if self.way == "dict" else 0]
        return chosen(batch)

    def my_step(self, batch):
        return super().step(batch)


WAYS = [
    *((way, name, "default") for way in ("attribute", "dict", "list", "partial") for name in ("sam", "gsam", "msam")),
    *(("attribute", "sam", mode) for mode in ("eager", "compiled") if mode == "eager" or BACKEND != "torch"),
]


@pytest.mark.parametrize(("way", "algorithm", "mode"), WAYS)
def test_a_method_kept_by_the_model_is_the_twins(way, algorithm, mode):
    cls = type("Dispatching", (Dispatching,), {"way": way})
    found = []
    for rho in (None, 0.0, 0.5):
        keras.utils.set_random_seed(0)
        model = cls()
        model.compile("sgd")  # the original's, which must not be used
        if rho is not None:
            model = keras_sam.as_sam_model(model)
        optimizer = SGD(0.1) if rho is None else ALGORITHMS[algorithm](SGD(0.1), rho=rho)
        found.append(weights_of(trained(model, optimizer, **MODES[mode])))
        assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 3
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert np.abs(found[2] - found[0]).max() > 1e-3


NEVER = r"without handing gradients to `model.optimizer`.*`self.optimizer.apply\(gradients, variables\)`"


def test_a_step_of_another_model_is_refused(mode):
    model = type("Dispatching", (Dispatching,), {"way": "closure"})()
    model.compile("sgd")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(RuntimeError, match=NEVER):
        trained(keras_sam.as_sam_model(model), keras_sam.SAMOptimizer(SGD(0.1)), **mode)


class Nothing(own_steps.Regression):
    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        return {"objective": self.loss_of(x, y)}


class ByHand(own_steps.Regression):
    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        loss, gradients = self.differentiate(lambda: self.loss_of(x, y), self.trainable_variables)
        for v, g in zip(self.trainable_variables, gradients, strict=True):
            v.assign(v - 0.1 * g)
        return {"objective": loss}


@pytest.mark.parametrize("cls", [Nothing, ByHand])
@three
def test_a_step_that_hands_nothing_to_the_optimizer_is_refused(cls, algorithm, quick_mode):
    model = sam_of(cls)()
    model.compile(ALGORITHMS[algorithm](SGD(0.1)), **quick_mode)
    before = weights_of(model)
    x, y = map(ops.convert_to_tensor, own_steps.data(8))
    with pytest.raises(RuntimeError, match=NEVER):
        model.train_on_batch(x, y)
    np.testing.assert_array_equal(weights_of(model), before)


# A step that fails.


@pytest.mark.only("jax")  # where `fit` takes the weights out of the model
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_a_model_has_its_weights_if_its_step_cannot_be_traced(error, interval):
    failing = Fragile(error)
    model = SAMSequential([keras.Input((5,)), failing, keras.layers.Dense(2)])
    model.compile(keras_sam.SAMOptimizer(SGD(0.1, momentum=0.9), interval=interval), "mse")
    before = weights_of(model)
    failing.countdown = 1
    x, y = own_steps.data(8)
    with pytest.raises(type(error)):
        model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(weights_of(model), before)
    assert int(model.optimizer.iterations) == 0
    failing.countdown = -1
    model.fit(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 1


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("run", [1, 2, 3])
@pytest.mark.parametrize("name", REMEMBERING)
def test_what_is_remembered_is_as_before_a_step_that_failed(name, run, error):
    if run > {"msam": 1, "parts": 4}.get(name, 2):
        return  # so many runs it does not make

    def after(fails):
        keras.utils.set_random_seed(0)
        failing = Fragile(RuntimeError("out of luck"))
        norm = keras.layers.BatchNormalization(momentum=0.5)
        model = SAMSequential([keras.Input((5,)), Dense(3), norm, failing, Dense(2)])
        model.compile(REMEMBERING[name](SGD(0.1), rho=0.3), loss="mse", run_eagerly=True)
        x, y = own_steps.data(24)
        for begin in (0, 8, 16):
            if fails and begin == 8:
                failing.countdown, failing.error = run, error
                with pytest.raises(type(error)):
                    model.train_on_batch(x[8:16], y[8:16])
            model.train_on_batch(x[begin : begin + 8], y[begin : begin + 8])
        return weights_of(model)

    np.testing.assert_allclose(after(True), after(False), atol=1e-6)


@pytest.mark.only("tensorflow", "torch")  # on JAX nothing of such a step remains
def test_what_is_remembered_is_as_before_though_another_optimizer_has_made_its_step():
    class FailingGAN(own_steps.GAN):
        countdown = -1

        def loss_of(self, x, y):
            self.countdown -= 1
            if self.countdown == 0:
                raise RuntimeError("out of luck")
            return super().loss_of(x, y)

    model = sam_of(FailingGAN)(SGD(0.1))
    optimizer = keras_sam.VaSSOOptimizer(SGD(0.1), rho=0.3)
    trained(model, optimizer, run_eagerly=True)
    before = [ops.convert_to_numpy(v).copy() for v in (*optimizer.memory, *model.generator.trainable_variables)]
    model.countdown = 2
    with pytest.raises(RuntimeError, match="out of luck"):
        model.fit(*own_steps.data(8), batch_size=8, verbose=0)
    assert int(ops.convert_to_numpy(model.critic_optimizer.iterations)) == 4
    after = [ops.convert_to_numpy(v) for v in (*optimizer.memory, *model.generator.trainable_variables)]
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("run", [1, 2])
@three
def test_after_an_error_while_it_was_traced_the_step_is_traced_again(algorithm, run):
    failing = Fragile(RuntimeError("out of luck"))
    model = SAMSequential([keras.Input((5,)), Dense(3), failing, Dense(2)])
    model.compile(ALGORITHMS[algorithm](SGD(0.1), rho=0.3), loss="mse")
    x, y = own_steps.data(8)
    model.train_on_batch(x, y)
    before = weights_of(model)
    failing.countdown = 1 if algorithm == "msam" else run
    with pytest.raises(RuntimeError, match="out of luck"):
        model.train_on_batch(x[:7], y[:7])  # which is traced for its size
    np.testing.assert_allclose(weights_of(model), before, atol=1e-7)
    model.train_on_batch(x[:7], y[:7])
    assert np.abs(weights_of(model) - before).max() > 1e-3
    found = [ops.convert_to_numpy(v) for v in model.optimizer.variables]
    assert all(np.isfinite(v).all() for v in found)


@pytest.mark.only("tensorflow", "torch")
def test_no_handler_of_the_users_stops_the_asking_run():
    class Careful(own_steps.Regression):
        def update(self, *args):
            try:
                super().update(*args)
            except Exception:
                raise AssertionError("the end of the asking run was caught") from None

    plain, sam = plain_and_sam(Careful, keras_sam.SAMOptimizer(SGD(0.1), rho=NOTHING))
    for a, b in zip(plain, sam, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
