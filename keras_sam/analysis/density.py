"""How the eigenvalues of a matrix of curvature are spread."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.lanczos import lanczos
from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Density
from keras_sam.analysis.trace import Products, counted, signs
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def spectral_density(
    model: keras.Model,
    x: Any,
    y: Any = None,
    probes: int = 8,
    steps: int = 30,
    points: int = 500,
    sigma: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
    matrix: str = "hessian",
    variables: str | Sequence[str] | None = None,
) -> Density:
    r"""The density of all eigenvalues of the Hessian of the loss, or of a matrix akin to it, by Lanczos quadrature.

        density(t) = 1/n Σ normal(t; λ_i, sigma²)                                      n weights
                   ≈ mean over probes of  Σ_j weight_j * normal(t; node_j, sigma²)     steps nodes a probe

    The nodes of a probe, a random vector, are the eigenvalues of the tridiagonal matrix that the method of Lanczos
    finds from it, and their weights the squares of the first elements of its eigenvectors. Far-out eigenvalues are
    found one by one; where many lie close together, one node stands for many.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        probes: Number of random vectors, an integer >= 2.
        steps: Steps of Lanczos a probe, an integer >= 1; no more than there are weights are made.
        points: Number of points at which the density is computed, an integer >= 2.
        sigma: Standard deviation of the normal densities, a float > 0, in the units of the eigenvalues. With `None`, a
            hundredth of the range of the nodes.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        seed: Of the random vectors.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.
        matrix: `"hessian"`, `"gauss_newton"` or `"fisher"`, as in `hessian_eigenvalues`.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are varied, and the result is of that block of the matrix. With `None`, all are.

    Returns:
        A `Density`. It takes `probes * steps` products, and `4 * probes * steps` bytes a weight while it is computed.

    Raises:
        ValueError: as `hessian_eigenvalues` does.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> density = analysis.spectral_density(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)), probes=2)
        >>> print(density.nodes[0].round(4), density.weights[0].round(4))  # of 2/3 * diag(1, 4, 9)
        [0.6667 2.6667 6.    ] [0.3333 0.3333 0.3333]

    References:
        [Ghorbani et al., 2019, An Investigation into Neural Net Optimization via Hessian Eigenvalue
        Density](https://arxiv.org/abs/1901.10159)
    """
    arguments.number("probes", probes, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    steps = arguments.positive_integer("steps", steps)
    arguments.number("points", points, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    if sigma is not None:
        sigma = arguments.number("sigma", sigma, lambda value: value > 0, "a float > 0 or None")
    objective = Objective(model, Batches(x, y, batch_size), variables, matrix)
    size = len(objective.start)
    steps = min(steps, size)
    progress = Progress(probes * steps, "product", verbose)
    nodes, weights = quadrature(counted(objective, progress), size, probes, steps, np.random.default_rng(seed))
    low, high = float(nodes.min()), float(nodes.max())
    if sigma is None:
        sigma = 0.01 * (high - low) or 0.01 * max(abs(high), 1.0)
    return of_width(sigma, nodes, weights, points, progress.steps)


def quadrature(
    products: Products, size: int, probes: int, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of each probe."""
    found = []
    for vectors in signs(rng, size, probes):
        matrices, _ = lanczos(products, vectors / np.sqrt(size), steps)
        nodes, eigenvectors = np.linalg.eigh(matrices)
        found.append((nodes, eigenvectors[:, 0] ** 2))
    nodes, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    seen = weights > 1e-12  # the zeros of a space that was exhausted are nobody's eigenvalues
    return np.where(seen, nodes, nodes[seen].mean()), np.where(seen, weights, 0.0)


def of_width(sigma: float, nodes: np.ndarray, weights: np.ndarray, points: int, products: int) -> Density:
    """The density that the nodes make, each drawn with the standard deviation `sigma`."""
    grid = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, points)
    each = blurred(grid, nodes, weights, sigma)
    error = each.std(axis=0, ddof=1) / np.sqrt(len(nodes))
    return Density(grid, each.mean(axis=0), error, nodes, weights, sigma, products)


def blurred(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    """The density of each probe at the points of the grid."""
    scale = sigma * np.sqrt(2 * np.pi)
    rows = [
        np.sum(w[:, None] * np.exp(-(((grid - t[:, None]) / sigma) ** 2) / 2), axis=0) / scale
        for t, w in zip(nodes, weights, strict=True)
    ]
    return np.array(rows)
