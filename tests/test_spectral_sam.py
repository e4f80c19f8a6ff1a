"""Spectral SAM: the polar factor by singular value decomposition, and steps by NumPy; at radius 0 Muon's own."""

import keras
import numpy as np
import pytest
import reference
from conftest import NOTHING, SAMSequential, weights_of
from keras import ops

import keras_sam
from keras_sam.optimizers.polar_factor import polar_factor

SGD = keras.optimizers.SGD


def exact(matrix):
    """U V^T of the directions that there are."""
    u, s, v = np.linalg.svd(np.asarray(matrix, "float64"), full_matrices=False)
    return (u * (s > 1e-9 * s.max())) @ v


def with_singular_values(rows, columns, values):
    rng = np.random.default_rng(rows + columns)
    u, _, v = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return (u * np.asarray(values)) @ v


def found(matrix):
    return ops.convert_to_numpy(polar_factor(ops.convert_to_tensor(matrix, "float32"))).astype("float64")


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 9), (9, 4), (5, 1), (1, 5), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_polar_factor_is_that_of_the_decomposition(rows, columns, scale):
    matrix = with_singular_values(rows, columns, np.geomspace(1.0, 1 / 200, min(rows, columns)))
    np.testing.assert_allclose(found(scale * matrix), exact(matrix), rtol=0, atol=1e-5)


def test_polar_factor_of_directions_that_are_small_or_missing():
    matrix = with_singular_values(8, 6, [1.0, 0.5, 0.1, 0.01, 0.0, 0.0])
    np.testing.assert_allclose(found(matrix), exact(matrix), rtol=0, atol=1e-3)
    small = np.linalg.svd(found(np.diag([1.0, 1e-3, 1e-4, 1e-6])), compute_uv=False)
    assert small[0] == pytest.approx(1.0, abs=1e-5)
    assert 0.5 < small[1] < 1.0 - 1e-5
    assert (small[1:] > [0.5, 0.05, 4e-4]).all()
    assert not found(np.zeros((3, 4))).any()


def test_the_norm_of_each_perturbation():
    rng = np.random.default_rng(0)
    shapes = {
        "dense/kernel": (8, 5),
        "convolution/kernel": (3, 3, 2, 4),
        "logits/kernel": (5, 3),
        "embedding/embeddings": (7, 4),
        "attention/bias": (2, 3),
        "dense/bias": (5,),
    }
    variables, gradients = [], [rng.normal(size=shape) for shape in shapes.values()]
    for path, shape in shapes.items():
        with keras.name_scope(path.split("/")[0]):
            variables.append(keras.Variable(np.zeros(shape, "float32"), name=path.split("/")[1]))
    optimizer = keras_sam.SpectralSAMOptimizer(SGD(0.1), rho=0.2, rest_ratio=3.0, exclude_layers="logits")
    optimizer.first_step([ops.convert_to_tensor(g, "float32") for g in gradients], variables)
    perturbed = [v.numpy().astype("float64") for v in variables]
    for e, g in zip(perturbed[:2], gradients[:2], strict=True):
        columns = g.shape[-1]
        np.testing.assert_allclose(e.reshape(-1, columns), 0.2 * exact(g.reshape(-1, columns)), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(e.reshape(-1, columns), 2), 0.2, rtol=1e-5)
    rest, slopes = reference.flatten(perturbed[2:]), reference.flatten(gradients[2:])
    np.testing.assert_allclose(rest, 0.6 * slopes / np.linalg.norm(slopes), atol=1e-6)


def oracle(batches, rho, rest_ratio, interval, alpha):
    """Weights after each step; `h` is what the last climb found."""
    loss, w, base = reference.two_layer_loss, reference.TRAJECTORIES["initial"], reference.SGD()
    for step, batch in enumerate(batches):
        g = reference.gradient(loss, w, batch)
        if step % interval == 0:
            parts = reference.unflatten(g)
            rest = np.linalg.norm(np.concatenate([part for part in parts if part.ndim == 1]))
            e = [rho * exact(part) if part.ndim == 2 else rho * rest_ratio * part / rest for part in parts]
            descent = reference.gradient(loss, w + reference.flatten(e), batch)
            h = descent - (g @ descent) / (g @ g) * g
        else:
            descent = g + alpha * np.linalg.norm(g) / np.linalg.norm(h) * h
        w = base(w, descent)
        yield w


@pytest.mark.parametrize("interval", [1, 3])
def test_steps_equal_the_oracle(two_layer, batches, interval):
    options = {"rho": 0.1, "rest_ratio": 0.5, "interval": interval, "alpha": 0.3}
    model = two_layer(keras_sam.SpectralSAMOptimizer(SGD(0.1, momentum=0.9), **options))
    for (x, y), expected in zip(batches, oracle(batches, **options), strict=True):
        model.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("rho", "options"), [(0.0, {}), (NOTHING, {"interval": 1})], ids=["one run", "two"])
def test_at_radius_zero_it_is_muons_run(two_layer, batches, rho, options):
    found = []
    for wrap in (lambda base: base, lambda base: keras_sam.SpectralSAMOptimizer(base, rho=rho, **options)):
        keras.backend.clear_session(free_memory=False)  # for the layers to have the same names
        model = two_layer(wrap(keras.optimizers.Muon(0.05, exclude_layers=["dense_1"])))
        for x, y in batches:
            model.train_on_batch(x, y)
        found.append(weights_of(model))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.abs(found[0] - reference.TRAJECTORIES["initial"]).max() > 0.05


def test_layers_that_are_excluded_are_known_again(tmp_path):
    dense = keras.layers.Dense
    model = SAMSequential([keras.Input((4,)), dense(3, name="first"), dense(2, name="last")], name="net")
    model.compile(keras_sam.SpectralSAMOptimizer(SGD(0.1), interval=1, exclude_layers=["^net/last"]), "mse")
    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"SAMSequential": SAMSequential})
    for each in (model, loaded):
        assert each.optimizer.is_matrix == [True, False, False, False]
        each.fit(x, y, verbose=0)
    np.testing.assert_allclose(weights_of(loaded), weights_of(model), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest_ratio": -1.0}, r"`rest_ratio` must be a float >= 0. Received: rest_ratio=-1.0"),
        ({"exclude_layers": "("}, r"`exclude_layers` must be a regular expression.*Received: exclude_layers='\('"),
        (
            {"adaptive": True},
            r"takes no `adaptive`: its neighbourhood is that of the spectral norm. Received",
        ),
        ({"num_batch_splits": 2}, r"takes no `num_batch_splits`.*Received: num_batch_splits=2"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        keras_sam.SpectralSAMOptimizer("sgd", **options)


def test_a_layer_that_is_not_there_is_an_error():
    optimizer = keras_sam.SpectralSAMOptimizer("sgd", exclude_layers=["logits"])
    with pytest.raises(ValueError, match=r"`exclude_layers` must match.*'logits' matches none of \['kernel'\]."):
        optimizer.build([keras.Variable(np.ones((2, 2)), name="kernel")])
