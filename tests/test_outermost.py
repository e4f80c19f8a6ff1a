"""The search for outer eigenvalues, on matrices whose eigenvalues are known, beside SciPy's."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh

from keras_sam.analysis.outermost import outermost

SIZE = 200
NETWORK = np.concatenate([[30.0, 10.0, 5.0], np.linspace(1.0, -0.3, SIZE - 3)])  # as Hessians have them
SPECTRA = {
    "network": NETWORK,
    "flat": np.linspace(-1.0, 1.1, SIZE),
    "power": 1 / np.arange(1, SIZE + 1),
    "negative": np.concatenate([[3.0, -4.0, -2.5], np.linspace(-1.0, 0.5, SIZE - 3)]),
    "clustered": np.concatenate([[1.0, 0.999, 0.99], np.linspace(0.9, -0.2, SIZE - 3)]),
}
SOUGHT = {"LA": lambda v: np.sort(v)[::-1], "SA": np.sort, "LM": lambda v: v[np.argsort(-np.abs(v))]}


class Products:
    """Products with a matrix of these eigenvalues, along random axes, and how many were taken."""

    def __init__(self, eigenvalues):
        axes, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(eigenvalues),) * 2))
        self.matrix, self.count = (axes * eigenvalues) @ axes.T, 0

    def __call__(self, vector):
        self.count += 1
        return self.matrix @ vector


def search(eigenvalues, k=1, which="LA", tolerance=1e-4, restarts=100, seed=0):
    products = Products(np.asarray(eigenvalues, "float64"))
    rng = np.random.default_rng(seed)
    return outermost(products, len(eigenvalues), k, which, tolerance, restarts, rng), products


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("k", "which"), [(1, "LA"), (5, "LA"), (2, "LM"), (1, "LM")])
def test_it_finds_those_at_the_end(spectrum, k, which):
    found, products = search(SPECTRA[spectrum], k, which, tolerance=1e-6)
    np.testing.assert_allclose(found.values, SOUGHT[which](SPECTRA[spectrum])[:k], rtol=1e-9)
    assert found.converged.all()
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-9)
    true = np.linalg.norm(products.matrix @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e-9)
    assert (true <= 1e-6 * np.abs(found.values) + 1e-9).all()


def test_the_smallest():
    found, _ = search(SPECTRA["negative"], 2, "SA")
    np.testing.assert_allclose(found.values, [-4.0, -2.5], rtol=1e-6)


@pytest.mark.parametrize(("k", "which"), [(1, "LA"), (2, "LA"), (3, "LA"), (2, "LM")])
@pytest.mark.parametrize("spectrum", ["network", "power"])
def test_it_takes_fewer_products_than_arpack_in_the_same_space(spectrum, k, which):
    ours, others = [], []
    for seed in range(5):
        ours.append(search(SPECTRA[spectrum], k, which, seed=seed)[1].count)
        products = Products(SPECTRA[spectrum])
        operator = LinearOperator((SIZE, SIZE), matvec=products, dtype="float64")
        start = np.random.default_rng(seed).normal(size=SIZE)
        eigsh(operator, k, which=which, tol=1e-4, v0=start, ncv=2 * k + 4)
        others.append(products.count + k)  # for residuals, which ours come with
    assert sum(ours) < sum(others)


def test_it_ends_with_the_product_that_finds_the_last():
    counts = [search(NETWORK, tolerance=tolerance)[1].count for tolerance in (1.0, 1e-2, 1e-4, 1e-6)]
    assert counts[0] == 4  # the fewest
    assert counts == sorted(set(counts))
    assert counts[-1] <= 9


def test_one_restart_is_not_enough_for_a_crowd():
    crowd = np.linspace(-1.0, 1.0, SIZE)
    found, products = search(crowd, k=2, tolerance=1e-8, restarts=1)
    assert not found.converged.all()
    assert products.count == 8 + 4  # a space, and what a restart leaves free in it
    found, _ = search(crowd, k=2, tolerance=1e-8, restarts=1000)
    assert found.converged.all()


@pytest.mark.parametrize(
    ("eigenvalues", "k", "expected"),
    [
        ([2.0] * 6, 3, [2.0, 2.0, 2.0]),  # a vector is all of its own space
        ([3.0] + [0.0] * 6, 2, [3.0, 0.0]),
        ([0.0] * 5, 3, [0.0, 0.0, 0.0]),
        ([1.0, -7.0], 1, [1.0]),
        (np.arange(6.0), 5, [5.0, 4.0, 3.0, 2.0, 1.0]),
    ],
)
def test_a_space_that_is_exhausted(eigenvalues, k, expected):
    found, _ = search(eigenvalues, k)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.converged.all()
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-9)


@pytest.mark.parametrize("rest", [1e-7, 1e-9, 1e-12, 1e-15])
def test_vectors_stay_orthogonal_where_next_to_nothing_is_left(rest):
    found, _ = search([1.0, *(rest * np.linspace(1.0, 2.0, 50))], k=4, restarts=3)
    assert found.values[0] == pytest.approx(1.0)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(4), atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_products_does_no_harm(seed):
    products, rng = Products(NETWORK), np.random.default_rng(seed)

    def rounded(vector):
        return products(vector.astype("float32")).astype("float32").astype("float64")

    found = outermost(rounded, SIZE, 3, "LA", 1e-5, 100, rng)
    np.testing.assert_allclose(found.values, NETWORK[:3], rtol=1e-6)
    true = np.linalg.norm(products.matrix @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e-4)
