"""The diagonal of a matrix of curvature, from its products with random vectors."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Diagonal
from keras_sam.analysis.trace import Products, counted, diagonal, signs
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def hessian_diagonal(
    model: keras.Model,
    x: Any,
    y: Any = None,
    samples: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
    matrix: str = "hessian",
    variables: str | Sequence[str] | None = None,
) -> Diagonal:
    """The diagonal of the Hessian of the loss in the trainable weights, or of a matrix akin to it.

    It is the mean of `v * H v`, element by element, over random vectors `v` of entries 1 and -1. The error of an
    element comes from the others of its row. With as many `samples` as the model has weights, or more, the diagonal is
    computed exactly instead.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        samples: Number of random vectors, an integer >= 2.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        seed: Of the random vectors.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.
        matrix: `"hessian"`, `"gauss_newton"` or `"fisher"`, as in `hessian_eigenvalues`.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are varied, and the result is of these. With `None`, all are.

    Returns:
        A `Diagonal`, flat, in the order of the model's trainable variables.

    Raises:
        ValueError: as `hessian_eigenvalues` does.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> diagonal = analysis.hessian_diagonal(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)))
        >>> print(diagonal.values.round(4))  # of 2/3 * diag(1, 4, 9)
        [0.6667 2.6667 6.    ]

    References:
        [Yao et al., 2020, AdaHessian](https://arxiv.org/abs/2006.00719), for the estimate
    """
    arguments.number("samples", samples, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    objective = Objective(model, Batches(x, y, batch_size), variables, matrix)
    size = len(objective.start)
    exact = samples >= size
    progress = Progress(size if exact else samples, "product", verbose)
    products = counted(objective, progress)
    if exact:
        return Diagonal(diagonal(products, size), np.zeros(size), size)
    return Diagonal(*estimate(products, size, samples, np.random.default_rng(seed)), samples)


def estimate(products: Products, size: int, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The elements and their standard errors."""
    first, second, shift = np.zeros(size), np.zeros(size), np.zeros(size)
    for v in signs(rng, size, samples):
        found = v * products(v)
        if not shift.any():
            shift = found[:, 0]  # against cancellation in the sum of squares
        found = found - shift[:, None]
        first, second = first + found.sum(1), second + (found**2).sum(1)
    mean = first / samples
    variance = np.maximum(second - samples * mean**2, 0.0) / (samples - 1)
    return shift + mean, np.sqrt(variance / samples)
