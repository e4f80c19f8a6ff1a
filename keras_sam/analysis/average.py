"""How much the loss rises on average at random weights nearby."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import AverageSharpness
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def average_sharpness(
    model: keras.Model,
    x: Any,
    y: Any = None,
    rho: float = 0.05,
    adaptive: bool = False,
    samples: int = 20,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
    variables: str | Sequence[str] | None = None,
    normalize_logits: bool = False,
) -> AverageSharpness:
    r"""The mean rise of the loss at weights that are perturbed at random.

        mean over e of  loss(w + e) - loss(w)        e = rho * T z,  z normal with mean 0 and variance 1

    with T = 1, or T = |w| element by element for `adaptive=True`. `rho` is the size of the perturbation of each weight
    here, not of all together. For a small `rho` it is `rho² / 2` times the trace of the Hessian.

    Args:
        model: A compiled and built Keras model, trained with SAM or not. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        rho: Float >= 0, standard deviation of a perturbation, in the units of the weights; for `adaptive=True`, in
            multiples of each weight.
        adaptive: Whether the perturbation of a weight grows with it.
        samples: Number of perturbations, an integer >= 2.
        batch_size: Samples of the data computed at a time, for arrays. It makes no difference to the result.
        seed: Of the perturbations.
        verbose: 1 for a progress bar over the perturbations, 0 for none, `"auto"` for a bar on a terminal.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are perturbed. With `None`, all are.
        normalize_logits: Whether the model's outputs are centred and scaled to norm 1 before the loss, as in
            `sharpness`.

    Returns:
        An `AverageSharpness`.

    Raises:
        ValueError: as `sharpness` does.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> average = analysis.average_sharpness(model, 2 * np.eye(4), np.zeros((4, 1)), rho=0.5, samples=50)
        >>> print(abs(average.value - 4 * 0.5**2) < 3 * average.standard_error)  # the loss is ‖w‖²
        True

    References:
        [Andriushchenko et al., 2023, A Modern Look at the Relationship between Sharpness and
        Generalization](https://arxiv.org/abs/2302.07011)
    """
    rho = arguments.number("rho", rho, lambda value: value >= 0, "a float >= 0")
    arguments.number("samples", samples, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    objective = Objective(model, Batches(x, y, batch_size), variables, normalize_logits=normalize_logits)
    w, rng, progress = objective.start, np.random.default_rng(seed), Progress(samples, "perturbation", verbose)
    scale = rho * (np.abs(w) if adaptive else np.ones_like(w))
    loss, rises = objective.loss(w), []
    for _ in range(samples):
        rises.append(objective.loss(w + scale * rng.normal(size=w.shape)) - loss)
        progress.step()
    return AverageSharpness(float(np.mean(rises)), float(np.std(rises, ddof=1) / np.sqrt(samples)), samples)
