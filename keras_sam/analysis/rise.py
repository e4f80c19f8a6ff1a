"""How much the loss can rise within the neighbourhood that SAM looks at."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def sharpness(
    model: keras.Model,
    x: Any,
    y: Any = None,
    rho: float = 0.05,
    adaptive: bool = False,
    ascent_steps: int = 1,
    batch_size: int = 32,
    m: int | None = None,
    verbose: int | str = "auto",
    variables: str | Sequence[str] | None = None,
    normalize_logits: bool = False,
    restarts: int = 0,
    seed: int = 0,
) -> float:
    r"""The rise of the loss to the worst point that projected gradient ascent finds within `rho` of the weights.

        e_0 = 0
        e_t = e_(t-1) + rho * T² g / ‖T g‖                g = gradient at w + e_(t-1)
              projected on the ball  ‖e / T‖ <= rho
        max over t of  loss(w + e_t) - loss(w)

    with T = 1, or T = |w| element by element for `adaptive=True`. The first step is SAM's own; more steps never find
    less, nor do more ascents, each from an e_0 of its own. The loss is that of `model.evaluate`: in inference mode,
    over all samples, with regularization. At a stationary point, where there is no gradient to follow, it is 0 without
    `restarts`.

    Args:
        model: A compiled and built Keras model, trained with SAM or not. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        rho: Float >= 0, radius of the ball in the units of the weights.
        adaptive: Whether the ball grows with the weights.
        ascent_steps: Number of ascent steps, an integer >= 1.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        m: Number of samples that share a perturbation, as in the paper's m-sharpness: the mean over such groups,
            in the order of the data and within the batches of a data set, of the rise of each group's own loss,
            weighted by samples. With `None` all samples share one.
        verbose: 1 for a progress bar over the groups, 0 for none, `"auto"` for a bar on a terminal.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are perturbed, and only they count in the norm. With `None`, all are.
        normalize_logits: Whether the model's outputs are centred and scaled to norm 1 along their last axis before the
            loss, so that a network does not seem sharp for the size of its logits alone. It is for a model that ends in
            logits, and a loss that takes them.
        restarts: Number of further ascents, an integer >= 0, each from a random point at the distance `rho`.
        seed: Of these points.

    Returns:
        A float >= 0, in the units of the loss.

    Raises:
        ValueError: if an argument is out of its range, a pattern matches no variable, logits are to be normalized and
            the loss takes probabilities, or the model is not compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[3.0]])])
        >>> model.compile(loss="mse")
        >>> print(round(analysis.sharpness(model, np.ones((8, 1)), np.zeros((8, 1)), rho=0.5), 4))  # 3.5² - 3²
        3.25

    References:
        [Foret et al., 2020](https://arxiv.org/abs/2010.01412); `adaptive`, `normalize_logits` and `restarts`:
        [Andriushchenko et al., 2023](https://arxiv.org/abs/2302.07011)
    """
    rho = arguments.number("rho", rho, lambda value: value >= 0, "a float >= 0")
    ascent_steps = arguments.positive_integer("ascent_steps", ascent_steps)
    arguments.number("restarts", restarts, lambda value: value >= 0 and value == int(value), "an integer >= 0")
    batches = Batches(x, y, batch_size)
    objective = Objective(model, batches, variables, normalize_logits=normalize_logits)
    scale = np.abs(objective.start) if adaptive else np.ones_like(objective.start)
    starts = [np.zeros_like(scale)]
    for direction in np.random.default_rng(seed).normal(size=(int(restarts), len(scale))):
        starts.append(rho * direction / np.linalg.norm(direction))
    if m is None:
        return _rise(objective, None, rho, scale, ascent_steps, starts)
    total, count, progress = 0.0, 0, Progress(None, "group", verbose)
    for group, samples in batches.groups(arguments.positive_integer("m", m, " or None")):
        total += samples * _rise(objective, [(group, samples)], rho, scale, ascent_steps, starts)
        count += samples
        progress.step()
    progress.end()
    return total / count


def _rise(
    objective: Objective, batches: Any, rho: float, scale: np.ndarray, ascent_steps: int, starts: Sequence[np.ndarray]
) -> float:
    """The highest of all ascents; places are in units of `scale`."""
    w = objective.start
    loss, highest = objective.loss(w, batches), 0.0
    for e in starts:
        for _ in range(ascent_steps):
            g = scale * objective.gradient(w + scale * e, batches)
            length = np.linalg.norm(g)
            if length == 0 or not np.isfinite(length):
                break
            e = e + rho * g / length
            e *= min(1.0, rho / max(np.linalg.norm(e), np.finfo(float).tiny))
            highest = max(highest, objective.loss(w + scale * e, batches) - loss)
    return highest
