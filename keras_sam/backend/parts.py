"""A batch, cut into parts along its first axis."""

from collections.abc import Iterator
from typing import Any

import keras


def first(data: Any) -> Any:
    """The first tensor of a batch."""
    return next(leaf for leaf in keras.tree.flatten(data) if leaf is not None)


def batch_size(data: Any) -> int | None:
    """The number of samples, or `None` where only the running graph knows it."""
    size: int | None = first(data).shape[0]
    return size


def bounds(index: int, size: Any, parts: int) -> tuple[Any, Any]:
    """Where a part begins and ends; only the last ones may be empty, if there are more parts than samples."""
    return -(-index * size // parts), -(-(index + 1) * size // parts)


def between(data: Any, begin: Any, end: Any) -> Any:
    """The samples from `begin` to `end`."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[begin:end], data)


def split(data: Any, parts: int) -> Iterator[tuple[Any, float]]:
    """Yield each part, as even as can be and none empty, with its share of the samples."""
    size = first(data).shape[0]
    for index in range(parts):
        begin, end = bounds(index, size, parts)
        if end > begin:
            yield between(data, begin, end), (end - begin) / size
