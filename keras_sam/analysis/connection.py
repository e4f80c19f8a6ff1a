"""A curve of low loss between two solutions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.analysis.landscape import number_of_points, solutions
from keras_sam.analysis.objective import flatten, unflatten
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Result
from keras_sam.analysis.training_objective import TrainingObjective
from keras_sam.models.batches import Batches
from keras_sam.optimizers import SAMOptimizer, arguments


@dataclasses.dataclass(frozen=True)
class Connection(Result):
    """The loss on two ways from one solution to another.

    Attributes:
        coordinates: Float64 array of shape `(points,)`: t, from one solution at 0 to the other at 1.
        curve: Float64 array of shape `(points,)`: the loss along the curve.
        line: Float64 array of shape `(points,)`: the loss along the straight line.
        middle: Float64 array of shape `(weights,)`: the point that the curve bends towards, all floating-point weights
            in the order of `model.get_weights()`.
    """

    coordinates: np.ndarray
    curve: np.ndarray
    line: np.ndarray
    middle: np.ndarray

    def weights_at(self, t: float, weights_a: Sequence[Any], weights_b: Sequence[Any]) -> list[np.ndarray]:
        """The weights on the curve, for `model.set_weights`.

        Statistics of batch norm are those of the straight line, and have to be adapted to the data.

        Args:
            t: From 0 to 1.
            weights_a: The solution at 0, as it was passed to `connect`.
            weights_b: The solution at 1.

        Returns:
            A list of arrays; those that are not of floating point come from `weights_a`.
        """
        floating = [i for i, w in enumerate(weights_a) if "float" in str(np.asarray(w).dtype)]
        a, b = (flatten(weights[i] for i in floating) for weights in (weights_a, weights_b))
        found, shapes = list(map(np.asarray, weights_a)), [np.shape(weights_a[i]) for i in floating]
        for i, part in zip(floating, unflatten(_bezier(t, a, self.middle, b), shapes), strict=True):
            found[i] = part.astype(found[i].dtype)
        return found


def connect(
    model: keras.Model,
    weights_a: Sequence[Any],
    weights_b: Sequence[Any],
    x: Any,
    y: Any = None,
    optimizer: Any = "adam",
    epochs: int = 20,
    points: int = 31,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
) -> Connection:
    """Train a curve between two solutions along which the loss stays low, and compare it with the straight line.

        curve(t) = (1 - t)² a + 2 t (1 - t) c + t² b          t from 0 to 1

    The middle c begins half way, and each training step moves it by the gradient of the loss of one batch at a t drawn
    at random from 0 to 1. Two solutions whose straight line crosses a barrier are often connected by such a curve.

    The curve is trained in training mode, with dropout and with batch norm by the batch. The losses that are returned
    are in inference mode, over all samples: those of `model.evaluate`. Statistics of batch norm that nobody has trained
    would make barriers where there are none, so at each t, the ends included, they are computed anew: the mean over the
    batches of the data. All other weights that are not trained go straight from a to b.

    Args:
        model: A compiled and built Keras model; its own weights do not matter. It is not changed.
        weights_a: What `model.get_weights()` gives for the one solution.
        weights_b: The same for the other.
        x: Training data: arrays, which are shuffled, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of
            batches.
        y: Targets, if `x` is arrays.
        optimizer: A Keras optimizer or its name, for the middle. It is copied.
        epochs: To train the middle for, an integer >= 1.
        points: How many along each way, an integer >= 2.
        batch_size: Samples in a batch, for arrays.
        seed: Of the order of the samples, of t and of dropout.
        verbose: 1 for a progress bar over the passes through the data, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A `Connection`.

    Raises:
        ValueError: if the weights do not fit the model, an argument is out of its range, or the model is not
            compiled or not built.
        TypeError: if the optimizer is a SAM optimizer, which asks for two gradients.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.add(keras.layers.Dense(1, use_bias=False))
        >>> model.compile(loss="mse")  # (v w - 1)²: from -1, -1 to 1, 1 not by 0, 0
        >>> ends = [np.full((1, 1), -1.0)] * 2, [np.full((1, 1), 1.0)] * 2
        >>> found = analysis.connect(model, *ends, np.ones((8, 1)), np.ones((8, 1)), epochs=1, points=3)
        >>> print(found.coordinates, found.line.round(4))
        [0.  0.5 1. ] [0. 1. 0.]

    References:
        [Garipov et al., 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of
        DNNs](https://arxiv.org/abs/1802.10026)
    """
    epochs, points = arguments.positive_integer("epochs", epochs), number_of_points(points)
    variables, a, b = solutions(model, weights_a, weights_b)
    batches = Batches(x, y, batch_size)
    objective = TrainingObjective(model, batches, variables)
    progress = Progress(epochs + 2 * points, "pass", verbose)
    middle = _Middle((a + b) / 2, objective, _copied(optimizer))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch, _ in _shuffled(batches, rng):
            t = rng.uniform()
            gradient = objective.training_gradient(_bezier(t, a, middle.flat, b), batch, rng)
            middle.step(2 * t * (1 - t) * gradient)
        progress.step()
    coordinates, losses = np.linspace(0, 1, points), np.empty((2, points))
    for way, c in enumerate((middle.flat, (a + b) / 2)):  # with which the curve is the line
        for i, t in enumerate(coordinates):
            adapted = objective.adapted(_bezier(t, a, c, b), np.random.default_rng(seed))
            losses[way, i] = objective.loss(adapted)
            progress.step()
    return Connection(coordinates, losses[0], losses[1], middle.flat)


def _bezier(t: float, a: np.ndarray, c: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b)


class _Middle:
    """The point that is trained: what is trainable of it in variables, for the optimizer."""

    def __init__(self, start: np.ndarray, objective: TrainingObjective, optimizer: keras.optimizers.Optimizer) -> None:
        self.flat, self.objective, self.optimizer = start, objective, optimizer
        self.variables = {
            i: keras.Variable(part, dtype=keras.backend.standardize_dtype(part.dtype), name=f"middle_{i}")
            for i, part in enumerate(objective.tensors(start))
            if objective.trainable[i]
        }

    def step(self, gradient: np.ndarray) -> None:
        slopes, parts = self.objective.tensors(gradient), unflatten(self.flat, self.objective.shapes)
        self.optimizer.apply([slopes[i] for i in self.variables], list(self.variables.values()))
        for i, variable in self.variables.items():
            parts[i] = ops.convert_to_numpy(variable)
        self.flat = flatten(parts)


def _shuffled(batches: Batches, rng: np.random.Generator) -> Iterator[Any]:
    if not batches.arrays:
        return iter(batches)
    order: Any = rng.permutation(len(keras.tree.flatten(batches.x)[0]))

    def taken(leaf: Any) -> Any:
        return None if leaf is None else ops.convert_to_numpy(leaf)[order]

    x, y = keras.tree.map_structure(taken, (batches.x, batches.y))
    return iter(Batches(x, y, batches.batch_size))


def _copied(optimizer: Any) -> keras.optimizers.Optimizer:
    found = keras.optimizers.get(optimizer)
    if isinstance(found, SAMOptimizer):
        raise TypeError(
            "`optimizer` must take one gradient, as a SAM optimizer does not: pass its base optimizer. "
            f"Received: optimizer={optimizer!r}"
        )
    return type(found).from_config(found.get_config())
