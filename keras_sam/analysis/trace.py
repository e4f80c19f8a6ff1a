"""The trace of a matrix of curvature, from its products with random vectors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import BLOCK, Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Trace
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments

Products = Callable[[np.ndarray], np.ndarray]  # of a symmetric matrix and the columns of another


def hessian_trace(
    model: keras.Model,
    x: Any,
    y: Any = None,
    samples: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
    method: str = "hutch++",
    matrix: str = "hessian",
    variables: str | Sequence[str] | None = None,
) -> Trace:
    r"""The trace of the Hessian of the loss in the trainable weights, or of a matrix akin to it.

        hutchinson    mean of  v' H v                            v random vectors of entries 1 and -1
        hutch++       trace of Q' H Q + mean of  u' H u          Q a basis of H S, u = (1 - Q Q') v

    Hutch++ spends a third of its products on `H S`, with S random, and a third on `H Q`, which has the large
    eigenvalues exactly; only the rest is estimated. It is the better, the fewer eigenvalues are large. With as many
    `samples` as the model has weights, or more, the trace is computed exactly instead, from the diagonal.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        samples: Number of products, an integer >= 2.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        seed: Of the random vectors.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.
        method: `"hutch++"` or `"hutchinson"`.
        matrix: `"hessian"`, `"gauss_newton"` or `"fisher"`, as in `hessian_eigenvalues`.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are varied, and the result is of that block of the matrix. With `None`, all are.

    Returns:
        A `Trace`.

    Raises:
        ValueError: as `hessian_eigenvalues` does.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> trace = analysis.hessian_trace(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)))
        >>> print(round(trace.value, 4), trace.standard_error)  # of 2/3 * diag(1, 4, 9)
        9.3333 0.0

    References:
        [Meyer et al., 2020, Hutch++](https://arxiv.org/abs/2010.09649)
    """
    arguments.number("samples", samples, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    if method not in ("hutch++", "hutchinson"):
        raise ValueError(f"`method` must be 'hutch++' or 'hutchinson'. Received: method={method!r}")
    objective = Objective(model, Batches(x, y, batch_size), variables, matrix)
    size, rng = len(objective.start), np.random.default_rng(seed)
    exact = samples >= size
    progress = Progress(size if exact else samples, "product", verbose)
    products = counted(objective, progress)
    if exact:
        return Trace(float(diagonal(products, size).sum()), 0.0, size)
    estimate = hutch_plus_plus if method == "hutch++" else hutchinson
    return Trace(*estimate(products, size, samples, rng), progress.steps)


def counted(objective: Objective, progress: Progress) -> Products:
    """The objective's products, of which a bar is shown."""

    def products(vectors: np.ndarray) -> np.ndarray:
        found = objective.products(vectors)
        progress.step(vectors.shape[1])
        return found

    return products


def diagonal(products: Products, size: int) -> np.ndarray:
    """The whole diagonal, from products with the columns of the unit matrix."""
    width = -(-size // -(-size // BLOCK))
    units = (np.eye(size, width, -begin) for begin in range(0, size, width))  # zeros beyond the last
    return np.asarray(sum(np.sum(e * products(e), axis=1) for e in units))


def signs(rng: np.random.Generator, size: int, samples: int) -> Iterator[np.ndarray]:
    """Columns of random entries 1 and -1, some at a time."""
    blocks = -(-samples // BLOCK)
    for block in range(blocks):  # of one size if possible, as each size may be compiled for itself
        yield rng.choice([-1.0, 1.0], (samples * (block + 1) // blocks - samples * block // blocks, size)).T


def hutchinson(products: Products, size: int, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """The estimate and its standard error."""
    found = np.concatenate([np.sum(v * products(v), axis=0) for v in signs(rng, size, samples)])
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(samples))


def hutch_plus_plus(products: Products, size: int, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """The estimate and its standard error; at least two samples are for the rest."""
    sketched = min(samples // 3, (samples - 2) // 2)
    if not sketched:
        return hutchinson(products, size, samples, rng)
    basis, _ = np.linalg.qr(products(np.concatenate(list(signs(rng, size, sketched)), axis=1)))
    large = float(np.sum(basis * products(basis)))

    def rest(vectors: np.ndarray) -> np.ndarray:
        """Products with what stands across the basis, and across it again, as `u' H u` needs."""
        across = products(vectors - basis @ (basis.T @ vectors))
        return np.asarray(across - basis @ (basis.T @ across))

    small, error = hutchinson(rest, size, samples - 2 * sketched, rng)
    return large + small, error
