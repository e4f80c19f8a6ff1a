"""A batch, cut into parts along its first axis."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sam import backend


class Part(NamedTuple):
    """What is to be known of a part: its share of the samples, and whether it is the last."""

    share: Any
    last: Any


def first(data: Any) -> Any:
    """The first tensor of a batch."""
    return next(leaf for leaf in keras.tree.flatten(data) if leaf is not None)


def batch_size(data: Any) -> int | None:
    """The number of samples, or `None` where only the running graph knows it."""
    size: int | None = first(data).shape[0]
    return size


def bounds(index: int, size: Any, parts: Any) -> tuple[Any, Any]:
    """Where a part begins and ends; none is empty, unless there are more parts than samples."""
    return -(-index * size // parts), -(-(index + 1) * size // parts)


def checked(data: Any) -> Any:
    """The batch, or an error if its arrays do not agree on the number of samples."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    shapes = [tuple(leaf.shape) for leaf in leaves]
    message = (
        "`num_batch_splits` and `ascent_fraction` cut every array of a batch along its first axis, which must count "
        f"samples, and the arrays do not agree on how many there are: leave them out. Received: shapes {shapes}."
    )
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes - {None}) > 1 or not all(shapes):
        raise ValueError(message)
    if None in sizes and len(leaves) > 1:  # only the running graph knows
        return backend.if_equal([ops.shape(leaf)[0] for leaf in leaves], data, message)
    return data


def between(data: Any, begin: Any, end: Any) -> Any:
    """The samples from `begin` to `end`."""

    def cut(leaf: Any) -> Any:
        if leaf is None:
            return None
        if not hasattr(leaf, "__getitem__"):
            raise ValueError(
                "`num_batch_splits` and `ascent_fraction` cut batches, and this one cannot be cut: densify it in the "
                f"data pipeline, or leave them out. Received: {type(leaf).__name__} of shape {leaf.shape}."
            )
        return leaf[begin:end]

    return keras.tree.map_structure(cut, data)


def beginning(data: Any, fraction: float) -> Any:
    """The first samples of a batch, at least one: this fraction of it, rounded."""
    if fraction == 1.0:
        return data
    data = checked(data)
    size = ops.shape(first(data))[0]
    if isinstance(size, int):
        return between(data, 0, max(1, round(fraction * size)))
    return between(data, 0, ops.maximum(1, ops.cast(ops.round(fraction * ops.cast(size, "float32")), "int32")))


def split(data: Any, parts: int) -> Iterator[tuple[Any, Part]]:
    """Yield each part, as even as can be and none empty, and what is to be known of it."""
    data = checked(data)
    size = first(data).shape[0]
    parts = min(parts, size)
    for index in range(parts):
        begin, end = bounds(index, size, parts)
        yield between(data, begin, end), Part((end - begin) / size, index == parts - 1)
