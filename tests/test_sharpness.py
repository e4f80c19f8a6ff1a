"""Sharpness with restarts, of a part of the weights, on average, of normalized logits; what cannot be measured."""

import keras
import numpy as np
import pytest
from keras import layers
from test_distribution import FOUR_DEVICES, run  # noqa: F401

from keras_sam import analysis
from keras_sam.analysis.objective import Objective, flatten, unflatten
from keras_sam.models.batches import Batches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 5)).astype("float32"), rng.integers(0, 3, 50)


def quadratic(scales, weights):
    """A model whose loss is scales · w², and data for it."""
    model = keras.Sequential([keras.Input((len(weights),)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.reshape(weights, (-1, 1))])
    model.compile(loss="mse")
    return model, np.sqrt(len(scales)) * np.diag(np.sqrt(scales)), np.zeros((len(scales), 1))


def test_restarts_leave_a_stationary_point():
    problem = quadratic([3.0, 1.0, 0.5], [0.0, 0.0, 0.0])
    assert analysis.sharpness(*problem, rho=0.5) == 0.0
    found = analysis.sharpness(*problem, rho=0.5, restarts=2, ascent_steps=30)
    assert found == pytest.approx(3.0 * 0.5**2, rel=1e-4)  # along the largest eigenvector


def test_restarts_find_what_the_gradient_leads_away_from():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(loss=lambda y, p: 0.1 * p - p**3)
    problem = model, np.ones((8, 1)), np.zeros((8, 1))
    assert analysis.sharpness(*problem, rho=1.0) == 0.0  # at w = 1
    assert analysis.sharpness(*problem, rho=1.0, restarts=5) == pytest.approx(0.9)  # at w = -1


def test_restarts_never_find_less(data):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="tanh"), layers.Dense(3)])
    model.compile(loss=LOSS)
    found = [analysis.sharpness(model, *data, rho=3.0, restarts=restarts) for restarts in (0, 2)]
    assert found == sorted(found)
    assert found[0] > 0.1


def test_average_sharpness_of_a_quadratic():
    scales, w = np.array([3.0, 1.0, 0.5]), np.array([0.1, 1.0, -2.0])
    problem = quadratic(scales, w)
    for adaptive, expected in ((False, 0.2**2 * scales.sum()), (True, 0.2**2 * scales @ w**2)):
        found = analysis.average_sharpness(*problem, rho=0.2, adaptive=adaptive, samples=60)
        assert abs(found.value - expected) < 3 * found.standard_error
        z = np.random.default_rng(0).normal(size=(60, 3)) * (np.abs(w) if adaptive else 1.0)
        each = (w + 0.2 * z) ** 2 @ scales - w**2 @ scales
        assert found.value == pytest.approx(each.mean(), rel=1e-4)
        assert found.standard_error == pytest.approx(each.std(ddof=1) / np.sqrt(60), rel=1e-4)
        assert found.samples == 60


def test_sharpness_of_normalized_logits_does_not_see_their_size(data):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(4, activation="tanh", name="hidden")(inputs)))
    model.compile(loss=LOSS)
    options = {"rho": 0.3, "adaptive": True, "variables": "hidden/"}
    found = []
    for factor in (1.0, 5.0):
        model.set_weights([*model.get_weights()[:2], *(factor * w for w in model.get_weights()[2:])])
        found.append(analysis.sharpness(model, *data, normalize_logits=True, **options))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[0] > 1e-3
    assert analysis.sharpness(model, *data, **options) > 2 * found[1]


def test_landscape_of_a_part_of_the_weights(data):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="hidden"), layers.Dense(3, name="out")])
    model.compile(loss=LOSS)
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    line = analysis.loss_landscape(model, *data, points=3, directions=[kernel.ravel()], variables="out/kernel")
    for index, coordinate in enumerate(line.coordinates):
        weights = model.get_weights()
        model.set_weights([*weights[:2], weights[2] + coordinate * kernel, weights[3]])
        assert line.losses[index] == pytest.approx(model.evaluate(*data, verbose=0), rel=1e-4)
        model.set_weights(weights)


class Once(layers.Layer):
    """An operation with a first derivative only."""

    def call(self, x):
        if keras.backend.backend() == "torch":
            import torch

            class Square(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x):
                    ctx.save_for_backward(x)
                    return x**2

                @staticmethod
                @torch.autograd.function.once_differentiable
                def backward(ctx, slope):
                    return 2 * ctx.saved_tensors[0] * slope

            return Square.apply(x)
        if keras.backend.backend() == "jax":
            import jax

            square = jax.custom_vjp(lambda x: x**2)
            square.defvjp(lambda x: (x**2, x), lambda x, slope: (2 * x * slope,))
            half = jax.custom_vjp(lambda x: x)
            half.defvjp(lambda x: (x, None), lambda _, slope: (jax.pure_callback(lambda s: s, slope, slope),))
            return half(x)
        import tensorflow as tf

        return tf.nn.fractional_max_pool(x[:, :, None, None], [1.0, 1.5, 1.0, 1.0], seed=1)[0][:, :, 0, 0]


def test_an_operation_without_a_second_derivative(data):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(6, name="hidden"), Once(), layers.Dense(3)])
    model.compile(loss=LOSS)
    assert analysis.sharpness(model, *data) > 0
    with pytest.raises(
        ValueError, match=r"must consist of operations whose derivatives the backend knows.*Received: model="
    ):
        analysis.hessian_trace(model, *data, samples=2)


@pytest.mark.only("jax")
def test_data_parallel_models_are_measured_alike(run):  # noqa: F811
    (result,) = run("jax_analysis.py", **FOUR_DEVICES)
    assert result["devices"] == 4
    np.testing.assert_allclose(result["parallel"], result["alone"], rtol=1e-4)
    assert np.isfinite(result["alone"]).all()


@pytest.mark.peer
@pytest.mark.only("torch")
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton", "fisher"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_products_equal_those_of_curvlinops(data, matrix):
    import curvlinops
    import torch

    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="tanh"), layers.Dense(3)])
    model.compile(loss=LOSS)
    twin = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    for parameter, w in zip(twin.parameters(), model.get_weights(), strict=True):
        parameter.data = torch.from_numpy(w.T.copy())
    batches = [tuple(torch.from_numpy(part[i : i + 25]) for part in data) for i in (0, 25)]
    operator = {
        "hessian": curvlinops.HessianLinearOperator,
        "gauss_newton": curvlinops.GGNLinearOperator,
        "fisher": curvlinops.EFLinearOperator,
    }[matrix]
    peer = operator(twin, torch.nn.CrossEntropyLoss(), list(twin.parameters()), batches)
    objective = Objective(model, Batches(*data, 7), matrix=matrix)
    vector = np.random.default_rng(1).normal(size=len(objective.start)).astype("float32")
    transposed = flatten([part.T for part in unflatten(vector, objective.shapes)]).astype("float32")
    expected = (peer @ torch.from_numpy(transposed)).detach().numpy()
    found = flatten([part.T for part in unflatten(objective.product(vector), objective.shapes)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
