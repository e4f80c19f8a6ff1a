"""Estimates of trace, diagonal and density, against a dense matrix; figures by layer; what is drawn of them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_sam import analysis
from keras_sam.analysis import density, diagonal, trace
from keras_sam.analysis.lanczos import lanczos
from keras_sam.analysis.objective import Objective
from keras_sam.models.batches import Batches

SIZE = 40


@pytest.fixture(scope="module")
def matrix():
    """Symmetric, with a few large eigenvalues, many small ones and some below 0, as Hessians have."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    return (basis * np.concatenate([[30.0, 10.0, 5.0], np.linspace(1.0, -0.3, SIZE - 3)])) @ basis.T


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 5)).astype("float32"), rng.integers(0, 3, 50)


@pytest.fixture
def model():
    hidden = layers.Dense(4, activation="tanh", name="hidden")
    model = keras.Sequential(
        [keras.Input((5,)), hidden, layers.BatchNormalization(name="norm"), layers.Dense(3, name="out")]
    )
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.uniform(-0.7, 0.7, w.shape) * (w.ndim > 1) for w in model.get_weights()])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture
def dense(model, data):
    """The Hessian, column by column: products with the unit vectors are tested elsewhere."""
    objective = Objective(model, Batches(*data, 50))
    return objective.products(np.eye(len(objective.start)))


def owners(model):
    """Which elements of the flat weights belong to each layer."""
    sizes = [sum(int(np.prod(v.shape)) for v in layer.trainable_variables) for layer in model.layers]
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("estimate", [trace.hutchinson, trace.hutch_plus_plus])
def test_traces_are_within_three_standard_errors(matrix, estimate):
    found = np.array([estimate(lambda v: matrix @ v, SIZE, 36, np.random.default_rng(seed)) for seed in range(100)])
    within = np.abs(found[:, 0] - np.trace(matrix)) < 3 * found[:, 1]
    assert within.sum() >= 95
    assert found[:, 1].mean() > 0.5 * found[:, 0].std()
    np.testing.assert_allclose(found[:, 0].mean(), np.trace(matrix), atol=4 * found[:, 0].std() / 10)


def test_hutch_plus_plus_has_the_large_eigenvalues_exactly(matrix):
    errors = [
        [
            abs(estimate(lambda v: matrix @ v, SIZE, 30, np.random.default_rng(seed))[0] - np.trace(matrix))
            for seed in range(30)
        ]
        for estimate in (trace.hutch_plus_plus, trace.hutchinson)
    ]
    assert np.mean(errors[0]) < np.mean(errors[1]) / 5


def test_the_rest_of_hutch_plus_plus_is_across_the_basis_on_both_sides(matrix):
    """Its variance is that of Hutchinson's estimate for (1 - QQ') H (1 - QQ'): 1.5 times as much with one of them."""
    ratios = []
    for seed in range(300):
        _, error = trace.hutch_plus_plus(lambda v: matrix @ v, SIZE, 18, np.random.default_rng(seed))
        sketch = np.concatenate(list(trace.signs(np.random.default_rng(seed), SIZE, 6)), axis=1)
        basis, _ = np.linalg.qr(matrix @ sketch)
        across = np.eye(SIZE) - basis @ basis.T
        rest = across @ matrix @ across
        ratios.append((error**2, 2 * (np.sum(rest**2) - np.sum(np.diag(rest) ** 2)) / 6))
    found, expected = np.mean(ratios, axis=0)
    assert found == pytest.approx(expected, rel=0.15)


def test_diagonals_are_within_three_standard_errors(matrix):
    found = [diagonal.estimate(lambda v: matrix @ v, SIZE, 30, np.random.default_rng(seed)) for seed in range(100)]
    within = [np.abs(values - np.diag(matrix)) < 3 * errors for values, errors in found]
    assert np.mean(within) > 0.98
    values, errors = (np.array(part) for part in zip(*found, strict=True))
    np.testing.assert_allclose(errors.mean(0), values.std(0), rtol=0.3)


def test_lanczos_has_the_spectrum_of_the_matrix_and_ends_where_a_space_is_exhausted(matrix):
    starts = np.random.default_rng(0).normal(size=(SIZE, 3))
    starts[:, 2] = np.linalg.eigh(matrix)[1][:, -2:].sum(1)  # of two eigenvectors
    starts /= np.linalg.norm(starts, axis=0)
    tridiagonal, left = lanczos(lambda v: matrix @ v, starts, SIZE)
    for found in tridiagonal[:2]:
        np.testing.assert_allclose(np.linalg.eigvalsh(found), np.linalg.eigvalsh(matrix), atol=1e-4)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal[2][:2, :2]), [10.0, 30.0], atol=1e-4)
    assert not tridiagonal[2][2:].any()
    assert left[2] == 0.0


def test_densities_are_within_three_standard_errors(matrix):
    exact, (grid, sigma) = np.linalg.eigvalsh(matrix), (np.linspace(-1, 31, 60), 0.5)
    expected = np.mean(np.exp(-(((grid - exact[:, None]) / sigma) ** 2) / 2), axis=0) / sigma / np.sqrt(2 * np.pi)
    within = []
    for seed in range(100):
        nodes, weights = density.quadrature(lambda v: matrix @ v, SIZE, 10, 15, np.random.default_rng(seed))
        np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
        each = density.blurred(grid, nodes, weights, sigma)
        error = each.std(axis=0, ddof=1) / np.sqrt(10)
        within.append(np.abs(each.mean(0) - expected) < 3 * error + 1e-3)
    assert np.mean(within) > 0.95


def test_density_of_a_network(model, data, dense):
    found = analysis.spectral_density(model, *data, probes=8, steps=20, sigma=0.1)
    exact = np.linalg.eigvalsh(dense)
    expected = np.mean(np.exp(-(((found.grid - exact[:, None]) / 0.1) ** 2) / 2), axis=0) / 0.1 / np.sqrt(2 * np.pi)
    assert np.mean(np.abs(found.density - expected) < 3 * found.standard_error + 0.01) > 0.9
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=1e-3)
    assert found.nodes.max() == pytest.approx(exact[-1], rel=1e-4)
    assert found.products == 8 * 20


def test_trace_and_diagonal_of_a_network(model, data, dense):
    exact = analysis.hessian_diagonal(model, *data, samples=len(dense))
    np.testing.assert_allclose(exact.values, np.diag(dense), atol=1e-6)
    assert not exact.standard_errors.any()
    found = analysis.hessian_diagonal(model, *data, samples=16)
    assert np.mean(np.abs(found.values - np.diag(dense)) < 3 * found.standard_errors + 1e-7) > 0.9
    assert (found.products, found.values.shape) == (16, (len(dense),))
    estimate = analysis.hessian_trace(model, *data, samples=24)
    assert abs(estimate.value - np.trace(dense)) < 4 * estimate.standard_error + 1e-6
    assert estimate.products == 24
    part = analysis.hessian_trace(model, *data, variables="^((?!hidden).)*$", samples=999)
    assert part.value == pytest.approx(np.trace(dense[24:, 24:]), rel=1e-4)


def test_eigenvalues_of_a_part_and_of_another_matrix(model, data, dense):
    part = analysis.hessian_eigenvalues(model, *data, k=1, variables=["out/"], tolerance=1e-6)
    assert part.values[0] == pytest.approx(np.linalg.eigvalsh(dense[32:, 32:])[-1], rel=1e-4)
    objective = Objective(model, Batches(*data), matrix="fisher")
    expected = np.linalg.eigvalsh(objective.products(np.eye(len(dense))))
    found = analysis.hessian_eigenvalues(model, *data, k=1, matrix="fisher", tolerance=1e-6)
    assert found.values[0] == pytest.approx(expected[-1], rel=1e-4)
    assert expected[0] > -1e-5 * expected[-1]


def test_figures_by_layer(model, data, dense):
    blocks = [dense[np.ix_(own, own)] for own in owners(model)]
    exact = analysis.by_layer(model, *data, measure="trace", samples=len(dense))
    assert [name.split("/")[-1] for name in exact.names] == ["hidden", "norm", "out"]
    np.testing.assert_allclose(exact.values, [np.trace(block) for block in blocks], rtol=1e-4)
    found = analysis.by_layer(model, *data, measure="trace", samples=40)
    assert (np.abs(found.values - exact.values) < 4 * found.errors).all()
    top = analysis.by_layer(model, *data, measure="top_eigenvalue", steps=24)
    np.testing.assert_allclose(top.values, [np.linalg.eigvalsh(block)[-1] for block in blocks], rtol=1e-4)
    assert (top.errors < 1e-3 * top.values).all()
    few = analysis.by_layer(model, *data, measure="top_eigenvalue", steps=2)
    exact_tops = np.array([np.linalg.eigvalsh(block) for block in blocks], dtype=object)
    assert all(np.abs(e - v).min() <= error for e, v, error in zip(exact_tops, few.values, few.errors, strict=True))
    rises = analysis.by_layer(model, *data, rho=0.3, adaptive=True)
    alone = analysis.sharpness(model, *data, rho=0.3, adaptive=True, variables="hidden/")
    assert rises.values[0] == pytest.approx(alone, rel=1e-4)
    assert (rises.values > 0).all()


def test_densities_are_drawn_with_one_width(matrix):
    rng = np.random.default_rng(0)
    nodes, weights = density.quadrature(lambda v: matrix @ v, SIZE, 4, 15, rng)
    narrow, wide = (density.of_width(sigma, nodes, weights, 200, 60) for sigma in (0.1, 1.0))
    ax = analysis.plot_density({"narrow": narrow, "wide": wide})
    one, other = (line.get_xydata() for line in ax.lines[:2])
    np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(other[:, 1], np.maximum(wide.density, ax.get_ylim()[0]))
    alone = analysis.plot_density(narrow)
    np.testing.assert_allclose(alone.lines[0].get_xdata(), narrow.grid)


def test_plots(tmp_path):
    grid = np.linspace(-3, 3, 50)
    bell = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    one = analysis.Density(grid, bell, 0.1 * bell, np.zeros((2, 1)), np.ones((2, 1)), 1.0, 2)
    ax = analysis.plot_density({"SGD": one, "SAM": one})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.maximum(bell, ax.get_ylim()[0]))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(1.1 * bell.max())
    ax.figure.savefig(tmp_path / "density.png")
    found = analysis.Layers(np.array(["hidden", "out"]), np.array([1.0, 2.0]), np.array([0.1, 0.2]), "top_eigenvalue")
    ax = analysis.plot_layers({"SGD": found, "SAM": found})
    assert [bar.get_width() for bar in ax.patches] == [1.0, 2.0, 1.0, 2.0]
    assert ax.get_xlabel() == "top eigenvalue"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["hidden", "out"]
    ax.figure.savefig(tmp_path / "layers.png")
    found.save(tmp_path / "layers.npz")
    assert analysis.Layers.load(tmp_path / "layers.npz").names.tolist() == ["hidden", "out"]
    other = analysis.Layers(np.array(["out"]), np.ones(1), np.zeros(1), "trace")
    with pytest.raises(ValueError, match=r"`results` must be of the same measure.*Received"):
        analysis.plot_layers({"a": found, "b": other})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: analysis.hessian_trace(m, x, y, method="exact"), "`method` must be 'hutch..' or 'hutchinson'"),
        (lambda m, x, y: analysis.hessian_trace(m, x, y, matrix="ggn"), "`matrix` must be one of .*matrix='ggn'"),
        (lambda m, x, y: analysis.hessian_diagonal(m, x, y, samples=1), "`samples` must be an integer >= 2"),
        (lambda m, x, y: analysis.spectral_density(m, x, y, probes=1), "`probes` must be an integer >= 2"),
        (lambda m, x, y: analysis.spectral_density(m, x, y, steps=0), "`steps` must be an integer >= 1"),
        (lambda m, x, y: analysis.spectral_density(m, x, y, points=1), "`points` must be an integer >= 2"),
        (lambda m, x, y: analysis.spectral_density(m, x, y, sigma=0), "`sigma` must be a float > 0 or None"),
        (lambda m, x, y: analysis.by_layer(m, x, y, "size"), "`measure` must be one of .*measure='size'"),
        (lambda m, x, y: analysis.average_sharpness(m, x, y, samples=1), "`samples` must be an integer >= 2"),
        (lambda m, x, y: analysis.average_sharpness(m, x, y, rho=-1), "`rho` must be a float >= 0"),
        (lambda m, x, y: analysis.sharpness(m, x, y, restarts=-1), "`restarts` must be an integer >= 0"),
        (lambda m, x, y: analysis.sharpness(m, x, y, variables="gama"), "`variables` must match trainable variables"),
        (lambda m, x, y: analysis.sharpness(m, x, y, variables="("), "`variables` must be a regular expression"),
        (lambda m, x, y: analysis.sharpness(m, x, y, variables=[]), "`variables` must be a regular expression"),
    ],
)
def test_bad_input(model, data, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, *data)
