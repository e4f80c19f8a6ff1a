"""The path of a training through weight space, and the plane that it runs in."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_sam.analysis.results import Result


@dataclasses.dataclass(frozen=True)
class TrainingPath(Result):
    """Where the trainable weights were while they were trained; `keras_sam.callbacks.WeightPath` keeps it.

    Attributes:
        weights: Float32 array of shape `(points, weights)`, or `(points, projections)` if it is `projected`; the first
            point is the start, the last one the end.
        steps: Int64 array of shape `(points,)`: how many batches had been trained on.
        projected: Whether `weights` are random projections.
    """

    weights: np.ndarray
    steps: np.ndarray
    projected: bool

    def principal_plane(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The plane through the end that is closest to all points, by a singular value decomposition.

            D = weights - weights[-1] = U S Vᵀ
            directions   = the first two rows of Vᵀ
            coordinates  = D · directions
            explained    = S² / sum of S², of these two

        The directions have norm 1, and signs by which the path begins on the left and below.

        Returns:
            The directions, float64 of shape `(2, weights)`; the coordinates of the points, float64 of shape
            `(points, 2)`; and the share of the variance that each direction explains, float64 of shape `(2,)`: that of
            all squared distances from the end.

        Raises:
            ValueError: if the points lie on a line.

        Examples:
            >>> import numpy as np
            >>> from keras_sam import analysis
            >>> path = analysis.TrainingPath(np.array([[3, 0, 2], [3, 0, 1], [0, 0, 1.0]]), np.arange(3), False)
            >>> directions, coordinates, explained = path.principal_plane()
            >>> print(np.linalg.norm(coordinates, axis=1).round(4), explained.sum().round(4))
            [3.1623 3.     0.    ] 1.0
        """
        away = self.weights.astype("float64") - self.weights[-1]
        _, sizes, directions = np.linalg.svd(away, full_matrices=False)
        if len(sizes) < 2 or not sizes[1] > 1e-6 * sizes[0]:  # float32 keeps no more
            raise ValueError(
                "A plane needs at least three points that are not on a line: keep more of them with a smaller "
                f"`save_freq`. Received: {len(self.weights)} points with singular values {sizes[:2]}"
            )
        directions = directions[:2] * np.where(directions[:2] @ away[0] > 0, -1.0, 1.0)[:, None]
        return directions, away @ directions.T, sizes[:2] ** 2 / np.sum(sizes**2)


def projected(tensors: Iterable[Any], size: int, seed: int) -> np.ndarray:
    """A random projection to `size` numbers, which keeps scalar products on average; the same for a seed.

    Each weight goes to a random place with a random sign. It takes one pass and no memory, and is as close as a dense
    matrix of Gaussian numbers. (Weinberger et al., 2009, arXiv 0902.2206)
    """
    rng, found = np.random.default_rng(seed), np.zeros(size)
    for tensor in tensors:
        values = np.ravel(ops.convert_to_numpy(tensor)).astype("float64")
        signs = 2.0 * rng.integers(2, size=len(values)) - 1.0
        found += np.bincount(rng.integers(size, size=len(values)), signs * values, minlength=size)
    return found
