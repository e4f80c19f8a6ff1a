"""Batches of whatever a Keras model is evaluated on, as often as they are asked for."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_sam.backend.parts import between, first


class Batches:
    """`(x, y, sample_weight)` batches, each of tensors, with their numbers of samples.

    Args:
        x: Arrays, nested in lists or dicts where the model takes several inputs; or a `keras.utils.PyDataset`, a
            `tf.data.Dataset` or any other iterable of batches that can be gone through many times.
        y: Arrays of targets; `None` with a data set, which has its own.
        batch_size: Samples in a batch, for arrays.

    Raises:
        ValueError: if targets come with a data set, the numbers of samples differ, or an iterator is given, which
            could be gone through once only.
    """

    def __init__(self, x: Any, y: Any = None, batch_size: int = 32) -> None:
        self.arrays = not _is_dataset(x)
        if not self.arrays and y is not None:
            raise ValueError(f"`y` must be None when `x` is a data set, which has its targets. Received: x={x!r}")
        if not self.arrays and isinstance(x, Iterator):
            raise ValueError(
                f"`x` is gone through many times, which an iterator cannot: pass a list of it. Received: {x!r}"
            )
        leaves = [leaf for leaf in keras.tree.flatten((x, y)) if leaf is not None] if self.arrays else []
        sizes = {int(leaf.shape[0]) for leaf in leaves}
        if len(sizes) > 1:
            raise ValueError(f"`x` and `y` must have the same number of samples. Received: {sorted(sizes)}")
        if self.arrays and (not sizes or 0 in sizes):
            raise ValueError(f"There must be at least one sample. Received: x={x!r}")
        if type(batch_size) is not int or batch_size < 1:  # no bool either
            raise ValueError(f"`batch_size` must be an integer >= 1. Received: batch_size={batch_size!r}")
        self.x, self.y, self.batch_size = x, y, batch_size
        self._kept: list[tuple[Any, int]] | None = None

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Each batch, and how many samples it has.

        What is in memory is converted once and stays where the backend computes; a data set may be larger than that.
        """
        if self._kept is None and (self.arrays or isinstance(self.x, list | tuple)):
            self._kept = list(self._converted())
        return iter(self._kept) if self._kept is not None else self._converted()

    def _converted(self) -> Iterator[tuple[Any, int]]:
        for batch in self._raw():
            data = keras.utils.unpack_x_y_sample_weight(batch)
            tensors = keras.tree.map_structure(lambda leaf: None if leaf is None else _tensor(leaf), data)
            yield tensors, int(first(tensors).shape[0])

    def groups(self, size: int) -> Iterator[tuple[Any, int]]:
        """Groups of `size` samples, with a smaller last one; from a data set, those of each batch."""
        for batch, samples in Batches(self.x, self.y, size) if self.arrays else self:
            for begin in range(0, samples, size):
                end = min(begin + size, samples)
                yield between(batch, begin, end), end - begin

    def _raw(self) -> Iterator[Any]:
        if isinstance(self.x, keras.utils.PyDataset):
            for index in range(len(self.x)):
                yield self.x[index]
        elif not self.arrays:
            yield from self.x
        else:
            for begin in range(0, int(first(self.x).shape[0]), self.batch_size):
                yield between((self.x, self.y), begin, begin + self.batch_size)


def _is_dataset(x: Any) -> bool:
    if isinstance(x, keras.utils.PyDataset | Iterator):
        return True
    nested = isinstance(x, dict | list | tuple)
    if nested and not isinstance(x, dict) and len(x) and isinstance(x[0], tuple):
        return True  # a list of batches
    return not nested and isinstance(x, Iterable) and not hasattr(x, "shape")


def _tensor(leaf: Any) -> Any:
    return ops.convert_to_tensor(ops.convert_to_numpy(leaf) if hasattr(leaf, "shape") else leaf)
