"""The curvature of the loss: eigenvalues and trace of its Hessian, without ever forming it."""

from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Spectrum, Trace
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def hessian_eigenvalues(
    model: keras.Model,
    x: Any,
    y: Any = None,
    k: int = 5,
    batch_size: int = 32,
    which: str = "LA",
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    seed: int = 0,
    verbose: int | str = "auto",
) -> Spectrum:
    """The outermost eigenvalues of the Hessian of the loss in the trainable weights.

    They come from `scipy.sparse.linalg.eigsh` over exact Hessian-vector products. The loss is that of
    `model.evaluate`: in inference mode, over all samples, with regularization.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        k: How many, at least 1 and below the number of weights.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        which: `"LA"` for the largest, `"SA"` for the smallest (the most negative), `"LM"` for those of the largest
            magnitude.
        tolerance: Residual at which an eigenvalue is found, relative to it.
        max_iterations: Restarts of the Lanczos method after which the search ends with `converged=False`.
        seed: Of the vector the search starts from.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A `Spectrum`.

    Raises:
        ImportError: if SciPy is missing.
        ValueError: if an argument is out of its range, or the model is not compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> spectrum = analysis.hessian_eigenvalues(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)), k=1)
        >>> print(spectrum.values.round(4), spectrum.converged)  # of 2/3 * diag(1, 4, 9)
        [6.] True
    """
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ImportError as error:
        raise ImportError('`hessian_eigenvalues` needs SciPy: pip install "keras_sam[analysis]"') from error
    objective = Objective(model, Batches(x, y, batch_size))
    size, progress = len(objective.start), Progress(None, "product", verbose)
    arguments.number("k", k, lambda value: 0 < value < size and value == int(value), f"an integer from 1 to {size - 1}")
    if which not in ("LA", "SA", "LM"):
        raise ValueError(f"`which` must be 'LA', 'SA' or 'LM'. Received: which={which!r}")

    def product(vector: np.ndarray) -> np.ndarray:
        progress.step()
        return objective.product(vector)

    operator = LinearOperator((size, size), matvec=product, dtype="float64")
    start, converged = np.random.default_rng(seed).normal(size=size), True
    try:
        values, vectors = eigsh(operator, k, which=which, tol=tolerance, maxiter=max_iterations, v0=start)
    except ArpackNoConvergence as error:
        values, vectors, converged = error.eigenvalues, error.eigenvectors, False
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    residuals = np.array(
        [np.linalg.norm(product(v) - value * v) for value, v in zip(values, vectors.T, strict=True)], "float64"
    )
    progress.end()
    return Spectrum(values, vectors, residuals, converged, progress.steps)


def hessian_trace(
    model: keras.Model,
    x: Any,
    y: Any = None,
    samples: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
) -> Trace:
    """The trace of the Hessian of the loss in the trainable weights, by Hutchinson's estimate.

    It is the mean of `v · H v` over random vectors `v` of entries 1 and -1. With as many `samples` as the model has
    weights, or more, it is computed exactly instead, from the diagonal.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        samples: Number of random vectors, an integer >= 2.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        seed: Of the random vectors.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A `Trace`.

    Raises:
        ValueError: if an argument is out of its range, or the model is not compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> trace = analysis.hessian_trace(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)))
        >>> print(round(trace.value, 4), trace.standard_error)  # of 2/3 * diag(1, 4, 9)
        9.3333 0.0
    """
    arguments.number("samples", samples, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    objective = Objective(model, Batches(x, y, batch_size))
    size, rng = len(objective.start), np.random.default_rng(seed)
    exact = samples >= size
    progress, found = Progress(size if exact else samples, "product", verbose), []
    for index in range(size if exact else samples):
        vector = np.eye(1, size, index)[0] if exact else rng.choice([-1.0, 1.0], size)
        found.append(float(vector @ objective.product(vector)))
        progress.step()
    if exact:
        return Trace(float(np.sum(found)), 0.0, progress.steps)
    return Trace(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(samples)), progress.steps)
