"""The outermost eigenvalues of a matrix of curvature, without ever forming it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective
from keras_sam.analysis.outermost import ORDERS, outermost
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Spectrum
from keras_sam.analysis.trace import counted
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
    matrix: str = "hessian",
    variables: str | Sequence[str] | None = None,
) -> Spectrum:
    r"""The outermost eigenvalues of the Hessian of the loss in the trainable weights, or of a matrix akin to it.

        hessian         H = ∂² loss / ∂w²
        gauss_newton    G = 1/n Σ J_i' (∂² l_i / ∂f_i²) J_i      J_i = ∂f_i / ∂w
        fisher          F = 1/n Σ g_i g_i'                       g_i = ∂l_i / ∂w

    over the samples i with outputs f_i and losses l_i. They come from the method of Lanczos with thick restarts over
    exact products of the matrix and a vector, which ends with the product that finds the last of them. The loss is that
    of `model.evaluate`: in inference mode, over all samples. A search from one vector sees an eigenvalue once, however
    many vectors have it: whether its copies are among those found is a matter of rounding.

    The Hessian has the regularization and all losses that layers add in it. Gauss-Newton and Fisher have the loss of
    the outputs only, where a sample's `sample_weight` is a factor of its l_i. f is what the model returns: logits, or
    probabilities if it ends in a softmax, and G is not the same for both. F is the empirical Fisher matrix, of the
    labels that are given; it is not the one of labels drawn from the model's predictions, to which G comes down for
    cross-entropy of logits.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        k: How many, from 1 to the number of weights.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        which: `"LA"` for the largest, `"SA"` for the smallest (the most negative), `"LM"` for those of the largest
            magnitude.
        tolerance: Residual at which an eigenvalue is found, relative to it. The error of an eigenvalue that stands
            apart is about the square of it.
        max_iterations: Restarts of the Lanczos method after which the search ends with `converged=False`.
        seed: Of the vector the search starts from.
        verbose: 1 for a progress bar over the products, 0 for none, `"auto"` for a bar on a terminal.
        matrix: `"hessian"`, `"gauss_newton"` or `"fisher"`.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are varied, and the result is of that block of the matrix. With `None`, all are.

    Returns:
        A `Spectrum`.

    Raises:
        ValueError: if an argument is out of its range, a pattern matches no variable, the model is not compiled or not
            built, it has an operation without a second derivative, its curvature is not finite, or, for `"fisher"`, its
            loss is not a sum over samples that is linear in their weights.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> spectrum = analysis.hessian_eigenvalues(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)), k=1)
        >>> print(spectrum.values.round(4), spectrum.converged)  # of 2/3 * diag(1, 4, 9)
        [6.] True

    References:
        [Wu and Simon, 2000, Thick-Restart Lanczos Method](https://doi.org/10.1137/S0895479898334605);
        [Martens, 2014, New Insights on the Natural Gradient](https://arxiv.org/abs/1412.1193);
        [Kunstner et al., 2019, Limitations of the Empirical Fisher](https://arxiv.org/abs/1905.12558)
    """
    objective = Objective(model, Batches(x, y, batch_size), variables, matrix)
    size, progress = len(objective.start), Progress(None, "product", verbose)
    whole = f"an integer from 1 to {size}"
    k = int(arguments.number("k", k, lambda value: 0 < value <= size and value == int(value), whole))
    arguments.number("tolerance", tolerance, lambda value: value > 0, "a float > 0")
    arguments.positive_integer("max_iterations", max_iterations)
    if which not in ORDERS:
        raise ValueError(f"`which` must be 'LA', 'SA' or 'LM'. Received: which={which!r}")

    products, rng = counted(objective, progress), np.random.default_rng(seed)
    found = outermost(lambda v: products(v[:, None])[:, 0], size, k, which, tolerance, max_iterations, rng)
    progress.end()
    order = np.argsort(-found.values)
    order = order[found.converged[order]]
    parts = found.values[order], found.vectors[:, order], found.residuals[order]
    return Spectrum(*parts, bool(found.converged.all()), progress.steps)
