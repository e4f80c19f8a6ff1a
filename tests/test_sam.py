"""The optimizer alone: closed forms, degenerate gradients, exact restoration, and what it refuses."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_sam

SGD = keras.optimizers.SGD


def variable(value, dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), dtype=dtype)


def tensors(*values):
    return [None if v is None else ops.convert_to_tensor(np.asarray(v, "float32")) for v in values]


def perturbation_norm(optimizer):
    return np.sqrt(sum(np.sum(ops.convert_to_numpy(e).astype("float64") ** 2) for e in optimizer.perturbations))


@pytest.mark.parametrize("curvature", [0.5, 3.0])
def test_one_step_on_a_quadratic_in_closed_form(curvature):
    # loss = curvature/2 |w|^2, so that the gradient at w + e is curvature (w + e) and e = rho w/|w|.
    start, rate, rho = np.array([3.0, -4.0]), 0.1, 0.5
    w = variable(start)
    optimizer = keras_sam.SAMOptimizer(SGD(rate), rho=rho)
    optimizer.first_step(tensors(curvature * start), [w])
    np.testing.assert_allclose(w.numpy(), start * (1 + rho / 5), rtol=1e-6)
    optimizer.second_step([curvature * ops.convert_to_tensor(w.numpy())], [w])
    np.testing.assert_allclose(w.numpy(), start - rate * curvature * start * (1 + rho / 5), rtol=1e-6)


def test_adaptive_step_in_closed_form():
    w0, g, rho = np.array([2.0, -1.0, 0.0]), np.array([1.0, 4.0, 5.0]), 0.7
    w = variable(w0)
    optimizer = keras_sam.SAMOptimizer(SGD(0.1), rho=rho, adaptive=True)
    optimizer.first_step(tensors(g), [w])
    expected = rho * w0**2 * g / np.sqrt(2.0**2 + 4.0**2)
    np.testing.assert_allclose(w.numpy() - w0, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.only("torch")
@pytest.mark.parametrize("group", [1, 5, 7, 1000])
def test_groups_of_variables_are_displaced_each_by_its_own(group, monkeypatch):
    from keras_sam.backend import torch as backend

    monkeypatch.setattr(backend, "GROUP", group)
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in [(2, 3), (), (4,), (1, 2, 2), (3,)]]
    gradients = [rng.normal(size=w.shape) for w in start]
    variables, norm = [variable(w) for w in start], np.sqrt(sum(np.sum(g**2) for g in gradients))
    optimizer = keras_sam.SAMOptimizer(SGD(0.1), rho=0.5)
    optimizer.first_step(tensors(*gradients), variables)
    for v, w, g in zip(variables, start, gradients, strict=True):
        np.testing.assert_allclose(v.numpy(), w + 0.5 * g / norm, rtol=1e-5)
    optimizer.restore()
    for v, w in zip(variables, start, strict=True):
        np.testing.assert_allclose(v.numpy(), w, rtol=1e-6)


@pytest.mark.parametrize("rho", [1e-3, 0.05, 2.0])
def test_perturbation_has_norm_rho_over_all_variables(rho):
    rng = np.random.default_rng(0)
    variables = [variable(rng.normal(size=s)) for s in [(5, 4), (4,), (1,)]]
    optimizer = keras_sam.SAMOptimizer(SGD(0.1), rho=rho)
    optimizer.first_step(tensors(*[rng.normal(size=v.shape) for v in variables]), variables)
    assert perturbation_norm(optimizer) == pytest.approx(rho, rel=1e-4)


def test_rho_schedule_is_read_at_the_base_iteration():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.4])
    w = variable([1.0, 1.0])
    optimizer = keras_sam.SAMOptimizer(SGD(0.0), rho=schedule)
    norms = []
    for _ in range(4):
        optimizer.first_step(tensors([3.0, 4.0]), [w])
        norms.append(perturbation_norm(optimizer))
        optimizer.second_step(tensors([3.0, 4.0]), [w])
    assert norms == pytest.approx([0.1, 0.1, 0.2, 0.4], rel=1e-5)
    assert int(optimizer.iterations) == 4


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf, 3e38])
def test_degenerate_first_gradient_perturbs_nothing(bad, adaptive):
    # 3e38 is finite, but the norm of two of them is not.
    start = np.array([0.1, -0.3], "float32")
    w = variable(start)
    optimizer = keras_sam.SAMOptimizer(SGD(0.5), rho=0.5, adaptive=adaptive)
    optimizer.first_step(tensors([bad, bad]), [w])
    np.testing.assert_array_equal(w.numpy(), start)
    optimizer.second_step(tensors([1.0, 2.0]), [w])
    np.testing.assert_allclose(w.numpy(), start - 0.5 * np.array([1.0, 2.0]), rtol=1e-6)


@given(scale=st.floats(1e-3, 1e3), adaptive=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_scaling_the_loss_does_not_change_the_perturbation(scale, adaptive, seed):
    rng = np.random.default_rng(seed)
    weights, gradients = rng.normal(size=(2, 7)), rng.normal(size=(2, 7))

    def perturbed(factor):
        variables = [variable(w) for w in weights]
        optimizer = keras_sam.SAMOptimizer(SGD(0.1), rho=0.3, adaptive=adaptive)
        optimizer.first_step(tensors(*(factor * gradients)), variables)
        return np.array([v.numpy() for v in variables])

    np.testing.assert_allclose(perturbed(scale), perturbed(1.0), rtol=1e-5, atol=1e-6)


def test_no_drift_at_learning_rate_zero():
    rng = np.random.default_rng(1)
    start = rng.normal(scale=0.1, size=(50, 40)).astype("float32")
    w = variable(start)
    optimizer = keras_sam.SAMOptimizer(SGD(0.0), rho=0.5)
    for _ in range(300):
        optimizer.first_step(tensors(rng.normal(size=start.shape)), [w])
        optimizer.second_step(tensors(rng.normal(size=start.shape)), [w])
    assert np.abs(w.numpy().astype("float64") - start).max() <= 1e-8


def test_weights_much_smaller_than_their_perturbation_lose_last_bits_at_most():
    rng = np.random.default_rng(8)
    start = (10.0 ** rng.uniform(-9, 0, 200)).astype("float32")
    w, optimizer = variable(start), keras_sam.SAMOptimizer(SGD(0.1), rho=2.0)
    optimizer.first_step(tensors(rng.normal(size=200)), [w])
    displacement = np.abs(optimizer.perturbations[0].numpy())
    optimizer.restore()
    error = np.abs(w.numpy().astype("float64") - start)
    assert (error <= 2.0**-24 * displacement).all()
    np.testing.assert_array_equal(w.numpy()[start > 2 * displacement], start[start > 2 * displacement])


@pytest.mark.only("tensorflow", "torch")  # JAX has float64 only on request
def test_float64_weights_keep_their_precision():
    w = variable([3.0, -4.0], "float64")
    optimizer = keras_sam.SAMOptimizer(SGD(0.0), rho=0.1)
    optimizer.first_step([ops.convert_to_tensor(np.array([0.6, -0.8]))], [w])
    np.testing.assert_allclose(w.numpy(), np.array([3.0, -4.0]) * 1.02, rtol=1e-12)


def test_variables_are_kept_out_of_the_base_optimizers_weight_decay():
    kernel, bias = variables = [keras.Variable([1.0, 2.0], name=name) for name in ("kernel", "bias")]
    optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    for step in (optimizer.first_step, optimizer.second_step):
        step([keras.ops.zeros(2)] * 2, variables)
    np.testing.assert_allclose(kernel.numpy(), [0.95, 1.9])
    np.testing.assert_array_equal(bias.numpy(), [1.0, 2.0])


def test_base_optimizer_is_seen_through_the_wrapper():
    base = keras.optimizers.Adam(0.01, clipnorm=1.0, weight_decay=0.1, use_ema=True, gradient_accumulation_steps=2)
    optimizer = keras_sam.SAMOptimizer(base)
    w = variable([1.0, 2.0])
    optimizer.build([w])
    seen = ("clipnorm", "weight_decay", "use_ema", "gradient_accumulation_steps", "ema_momentum", "clipvalue")
    assert [getattr(optimizer, name) for name in seen] == [getattr(base, name) for name in seen]
    assert (base.clipnorm, base.weight_decay) == (1.0, 0.1)  # not overwritten by the constructor
    optimizer.learning_rate = 0.5
    assert float(base.learning_rate) == float(optimizer.learning_rate) == 0.5
    optimizer.clipnorm = 2.0
    assert base.clipnorm == 2.0
    assert [v.path for v in optimizer.variables] == [
        *[v.path for v in base.variables],
        *[v.path for v in optimizer.perturbations],
    ]
    assert len(optimizer.perturbations) == 1


def test_loss_scale_factor_of_the_base():
    w = variable([1.0, 1.0])
    optimizer = keras_sam.SAMOptimizer(SGD(0.1, loss_scale_factor=8.0), rho=0.5)
    assert float(optimizer.scale_loss(ops.convert_to_tensor(3.0))) == 24.0
    optimizer.first_step(tensors([8 * 3.0, 8 * 4.0]), [w])
    np.testing.assert_allclose(w.numpy(), [1.3, 1.4], rtol=1e-6)
    optimizer.second_step(tensors([8 * 1.0, 8 * 2.0]), [w])
    np.testing.assert_allclose(w.numpy(), [0.9, 0.8], rtol=1e-6)


class TestOrderOfSteps:
    def make(self):
        w = variable([1.0, 2.0])
        optimizer = keras_sam.SAMOptimizer(SGD(0.1), rho=0.5)
        optimizer.build([w])
        return optimizer, w

    def test_first_step_twice(self):
        optimizer, w = self.make()
        optimizer.first_step(tensors([1.0, 1.0]), [w])
        with pytest.raises(RuntimeError, match=r"second_step.*restore"):
            optimizer.first_step(tensors([1.0, 1.0]), [w])

    def test_second_step_alone(self):
        optimizer, w = self.make()
        with pytest.raises(RuntimeError, match="first_step"):
            optimizer.second_step(tensors([1.0, 1.0]), [w])

    def test_restore_gives_up_the_step(self):
        optimizer, w = self.make()
        optimizer.restore()  # nothing to do yet
        optimizer.first_step(tensors([1.0, 1.0]), [w])
        optimizer.restore()
        np.testing.assert_allclose(w.numpy(), [1.0, 2.0], atol=1e-7)
        optimizer.first_step(tensors([1.0, 1.0]), [w])
        optimizer.second_step(tensors([1.0, 1.0]), [w])
        np.testing.assert_allclose(w.numpy(), [0.9, 1.9], rtol=1e-6)

    @pytest.mark.parametrize("call", ["apply", "apply_gradients"])
    def test_one_gradient_is_not_enough(self, call):
        optimizer, w = self.make()
        arguments = [zip(tensors([1.0, 1.0]), [w], strict=True)] if call == "apply_gradients" else [[None], [w]]
        with pytest.raises(RuntimeError, match=r"SAMModel.*first_step.*second_step"):
            getattr(optimizer, call)(*arguments)

    def test_wrong_number_of_gradients(self):
        optimizer, w = self.make()
        with pytest.raises(ValueError, match="Received: 2 gradients for 1 variables"):
            optimizer.first_step([None, None], [w])

    def test_no_variables_known(self):
        with pytest.raises(ValueError, match="trainable_variables"):
            keras_sam.SAMOptimizer("sgd").first_step([None])

    def test_unknown_variable(self):
        optimizer, _ = self.make()
        with pytest.raises(ValueError, match="Unknown variable"):
            optimizer.first_step([None], [variable([1.0])])


class TestStatelessSteps:
    def test_only_on_jax(self):
        w = variable([1.0])
        optimizer = keras_sam.SAMOptimizer("sgd")
        optimizer.build([w])
        state = [v.value for v in optimizer.variables]
        if keras.backend.backend() == "jax":
            weights, _ = optimizer.stateless_first_step(state, tensors([2.0]), [w.value])
            np.testing.assert_allclose(weights[0], [1.05], rtol=1e-6)
            np.testing.assert_allclose(w.numpy(), [1.0])  # pure
        else:
            with pytest.raises(RuntimeError, match=r"JAX.*first_step"):
                optimizer.stateless_first_step(state, tensors([2.0]), [w.value])

    @pytest.mark.only("jax")
    def test_arguments_are_checked(self):
        w = variable([1.0])
        optimizer = keras_sam.SAMOptimizer("sgd")
        with pytest.raises(ValueError, match="build"):
            optimizer.stateless_first_step([], tensors([2.0]), [w.value])
        optimizer.build([w])
        with pytest.raises(ValueError, match="`optimizer_variables` must have one entry"):
            optimizer.stateless_first_step([], tensors([2.0]), [w.value])
        with pytest.raises(RuntimeError, match=r"SAMModel.*first_step"):
            optimizer.stateless_apply([v.value for v in optimizer.variables], tensors([2.0]), [w.value])


def test_numbers_of_numpy():
    optimizer = keras_sam.SAMOptimizer("sgd", rho=np.float32(0.5), interval=np.int64(2), num_batch_splits=np.int32(4))
    config = json.loads(json.dumps(optimizer.get_config()))
    assert (config["rho"], config["interval"], config["num_batch_splits"]) == (0.5, 2, 4)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.05", None, True])
def test_bad_rho(rho):
    with pytest.raises(ValueError, match=r"`rho` must be a float >= 0.*Received: rho="):
        keras_sam.SAMOptimizer("sgd", rho=rho)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), "small"])
def test_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must be a positive float.*Received: epsilon="):
        keras_sam.SAMOptimizer("sgd", epsilon=epsilon)


@pytest.mark.parametrize("base", [None, 3, "no such optimizer", keras.layers.Dense(1)], ids=repr)
def test_bad_base(base):
    with pytest.raises(ValueError, match=r"`base_optimizer` must be a Keras optimizer.*Received: base_optimizer="):
        keras_sam.SAMOptimizer(base)


@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["bare", "loss scaled"])
def test_nesting_is_refused(wrap):
    with pytest.raises(ValueError, match="cannot wrap another"):
        keras_sam.SAMOptimizer(wrap(keras_sam.SAMOptimizer("sgd")))


@pytest.mark.parametrize("argument", [{"clipnorm": 1.0}, {"learning_rate": 0.1}, {"use_ema": True}])
def test_arguments_of_the_base_are_refused(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=rf"Set them on the base optimizer.*SGD\({name}=\.\.\.\)"):
        keras_sam.SAMOptimizer("sgd", **argument)


def test_rho_cannot_be_set_behind_a_compiled_step():
    with pytest.raises(AttributeError):
        keras_sam.SAMOptimizer("sgd").rho = 0.1
