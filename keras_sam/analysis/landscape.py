"""The loss along lines and over planes through weight space."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import Objective, flatten, unflatten
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Landscape
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


def loss_landscape(
    model: keras.Model,
    x: Any,
    y: Any = None,
    span: float = 1.0,
    points: int = 21,
    dimensions: int = 1,
    seed: int = 0,
    directions: Sequence[np.ndarray] | None = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
    variables: str | Sequence[str] | None = None,
) -> Landscape:
    """The loss at `w + a * d`, or at `w + a * d + b * d2`, for `a` and `b` from `-span` to `span`.

    The directions are random and filter-normalized: every filter of a kernel, that is, everything that leads to one
    output (the last axis), has the norm of the same filter of the weights; biases and normalization weights stay.
    So the landscapes of two networks can be compared, however their weights are scaled. The same `seed` gives networks
    of the same shape the same random draw, and a plane the same first direction as a line. The loss is that of
    `model.evaluate`.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        span: Float > 0, how far to go, in multiples of a direction.
        points: How many along each direction, an integer >= 2; an odd number has the weights themselves in the middle.
        dimensions: 1 for a line, 2 for a plane.
        seed: Of the random directions.
        directions: Instead of random ones: one or two flat vectors over all trainable weights, such as the columns of
            `Spectrum.vectors`. They are taken as they are, and set `dimensions`.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        verbose: 1 for a progress bar over the points, 0 for none, `"auto"` for a bar on a terminal.
        variables: A regular expression, or a list of them, that is searched for in the variables' paths: only those
            that match are varied, and `directions` go over these. With `None`, all are.

    Returns:
        A `Landscape`.

    Raises:
        ValueError: if an argument is out of its range, a pattern matches no variable, or the model is not compiled or
            not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[3.0]])])
        >>> model.compile(loss="mse")
        >>> line = analysis.loss_landscape(model, np.ones((8, 1)), np.zeros((8, 1)), points=3)
        >>> print(np.sort(line.losses).round(4))  # a filter of norm 3, so 0², 3² and 6²
        [ 0.  9. 36.]

    References:
        [Li et al., 2018, Visualizing the Loss Landscape of Neural Nets](https://arxiv.org/abs/1712.09913)
    """
    objective = Objective(model, Batches(x, y, batch_size), variables)
    span = arguments.number("span", span, lambda value: value > 0, "a float > 0")
    if directions is None:
        if dimensions not in (1, 2):
            raise ValueError(f"`dimensions` must be 1 or 2. Received: dimensions={dimensions!r}")
        rng = np.random.default_rng(seed)
        directions = [filter_normalized(rng, objective.start, objective.shapes) for _ in range(dimensions)]
    directions = [np.asarray(d, "float64") for d in directions]
    if len(directions) not in (1, 2) or any(d.shape != objective.start.shape for d in directions):
        raise ValueError(
            f"`directions` must be one or two vectors of {len(objective.start)} elements. "
            f"Received: shapes {[d.shape for d in directions]}"
        )
    coordinates = np.linspace(-span, span, number_of_points(points))
    losses = np.empty([len(coordinates)] * len(directions))
    progress = Progress(losses.size, "point", verbose)
    for index in np.ndindex(losses.shape):
        steps = (coordinates[i] * d for i, d in zip(index, directions, strict=True))
        losses[index] = objective.loss(objective.start + sum(steps))
        progress.step()
    return Landscape(coordinates, losses)


def interpolate(
    model: keras.Model,
    weights_a: Sequence[Any],
    weights_b: Sequence[Any],
    x: Any,
    y: Any = None,
    margin: float = 0.25,
    points: int = 31,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> Landscape:
    """The loss on the line from one solution, at coordinate 0, to another, at coordinate 1.

    All floating-point weights take part, batch-norm statistics too.

    Args:
        model: A compiled and built Keras model; its own weights do not matter. It is not changed.
        weights_a: What `model.get_weights()` gives for the one solution.
        weights_b: The same for the other.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        margin: Float >= 0, how far to go beyond both, in multiples of the way between them.
        points: How many, an integer >= 2.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        verbose: 1 for a progress bar over the points, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A one-dimensional `Landscape`.

    Raises:
        ValueError: if the weights do not fit the model, an argument is out of its range, or the model is not
            compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> ends = [np.array([[1.0]])], [np.array([[3.0]])]
        >>> line = analysis.interpolate(model, *ends, np.ones((8, 1)), np.zeros((8, 1)), margin=0.0, points=3)
        >>> print(line.coordinates, line.losses.round(4))
        [0.  0.5 1. ] [1. 4. 9.]
    """
    margin = arguments.number("margin", margin, lambda value: value >= 0, "a float >= 0")
    variables, a, b = solutions(model, weights_a, weights_b)
    objective = Objective(model, Batches(x, y, batch_size), variables)
    coordinates = np.linspace(-margin, 1 + margin, number_of_points(points))
    progress, losses = Progress(len(coordinates), "point", verbose), []
    for c in coordinates:
        losses.append(objective.loss((1 - c) * a + c * b))
        progress.step()
    return Landscape(coordinates, np.array(losses))


def filter_normalized(rng: np.random.Generator, weights: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """A random direction in which every filter has the norm of the same filter of `weights`; flat, like these."""
    parts = []
    for w in unflatten(weights, shapes):
        d = rng.normal(size=w.shape)
        if w.ndim < 2:
            d[...] = 0.0
        else:
            axes = tuple(range(w.ndim - 1))
            norms = np.sqrt(np.sum(d**2, axes)), np.sqrt(np.sum(w**2, axes))
            d *= norms[1] / norms[0]
        parts.append(d)
    return flatten(parts)


def solutions(
    model: keras.Model, weights_a: Sequence[Any], weights_b: Sequence[Any]
) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The floating-point variables of a model, and flat vectors of two solutions in these."""
    for name, weights in (("weights_a", weights_a), ("weights_b", weights_b)):
        shapes = [np.shape(w) for w in weights]
        if shapes != [tuple(v.shape) for v in model.weights]:
            raise ValueError(f"`{name}` must have the shapes of `model.get_weights()`. Received: shapes {shapes}")
    floating = [i for i, v in enumerate(model.weights) if "float" in keras.backend.standardize_dtype(v.dtype)]
    a, b = (flatten(weights[i] for i in floating) for weights in (weights_a, weights_b))
    return [model.weights[i] for i in floating], a, b


def number_of_points(points: Any) -> int:
    """The integer >= 2 that was asked for."""
    return int(arguments.number("points", points, lambda value: value >= 2 and value == int(value), "an integer >= 2"))
