"""The loss in the plane that a training runs in."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.landscape import number_of_points
from keras_sam.analysis.objective import Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Result
from keras_sam.analysis.training_path import TrainingPath
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments


@dataclasses.dataclass(frozen=True)
class PathLandscape(Result):
    """The loss around the path of a training.

    Attributes:
        first: Float64 array of shape `(points,)`: coordinates along the first direction, in units of the weights; 0 is
            the end of the path.
        second: Float64 array of shape `(points,)`: coordinates along the second direction.
        losses: Float64 array of shape `(points, points)`; the first axis goes along the first direction.
        path: Float64 array of shape `(kept, 2)`: the path in the plane, from the start to the end.
        explained: Float64 array of shape `(2,)`: the share of the path's variance along each direction.
    """

    first: np.ndarray
    second: np.ndarray
    losses: np.ndarray
    path: np.ndarray
    explained: np.ndarray


def path_landscape(
    model: keras.Model,
    path: TrainingPath,
    x: Any,
    y: Any = None,
    margin: float = 0.25,
    points: int = 21,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> PathLandscape:
    """The loss in the plane of the path's two principal directions, with the path in it.

    The plane goes through the end of the path; see `TrainingPath.principal_plane`. The loss is that of
    `model.evaluate` at the weights of the plane. The path itself lies above and below it, the closer the more the two
    directions explain. Do not read too much into that: they explain nine tenths of a walk of random steps, too.

    Args:
        model: A compiled and built Keras model; its own trainable weights do not matter, but its batch-norm statistics
            do. It is not changed.
        path: What `WeightPath` has kept of the model's training, not projected.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        margin: Float >= 0, how far to go beyond the path, in multiples of its extent.
        points: How many along each direction, an integer >= 2.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        verbose: 1 for a progress bar over the points, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A `PathLandscape`.

    Raises:
        ValueError: if the path is projected, of another model, or a line; an argument is out of its range; or the model
            is not compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> from keras_sam.callbacks import WeightPath
        >>> x, y = np.diag([1.0, 2.0, 3.0]), np.ones((3, 1))
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(0.05), loss="mse")
        >>> keep = WeightPath()
        >>> history = model.fit(x, y, epochs=20, verbose=0, callbacks=[keep])
        >>> plane = analysis.path_landscape(model, keep.path, x, y, points=5)
        >>> print(plane.losses.shape, plane.path.shape, bool(plane.explained.sum() > 0.9))
        (5, 5) (21, 2) True

    References:
        [Li et al., 2018, Visualizing the Loss Landscape of Neural Nets](https://arxiv.org/abs/1712.09913);
        [Antognini & Sohl-Dickstein, 2018, PCA of high dimensional random walks with comparison to neural network
        training](https://arxiv.org/abs/1806.08805)
    """
    margin = arguments.number("margin", margin, lambda value: value >= 0, "a float >= 0")
    objective, points = Objective(model, Batches(x, y, batch_size)), number_of_points(points)
    if path.projected:
        raise ValueError(
            "`path` must have the weights themselves, from which the plane is made: train with "
            "`WeightPath(projections=None)`. `plot_path(path)` shows a projected path without the loss. Received: "
            f"{path.weights.shape[1]} projections"
        )
    if path.weights.shape[1] != len(objective.start):
        raise ValueError(
            f"`path` must be of this model, which has {len(objective.start)} trainable weights now. Received: "
            f"a path of {path.weights.shape[1]}"
        )
    directions, coordinates, explained = path.principal_plane()
    low, high = coordinates.min(0), coordinates.max(0)
    first, second = (
        np.linspace(a - margin * (b - a), b + margin * (b - a), points) for a, b in zip(low, high, strict=True)
    )
    losses, end = np.empty((points, points)), path.weights[-1].astype("float64")
    progress = Progress(losses.size, "point", verbose)
    for i, j in np.ndindex(losses.shape):
        losses[i, j] = objective.loss(end + first[i] * directions[0] + second[j] * directions[1])
        progress.step()
    return PathLandscape(first, second, losses, coordinates, explained)
