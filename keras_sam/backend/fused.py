"""Arithmetic over many tensors as JAX and TensorFlow have it, whose compilers fuse it; PyTorch has its own."""

from collections.abc import Iterable, Sequence
from typing import Any

from keras import ops

from keras_sam import backend


def cast(tensors: Iterable[Any], dtype: str) -> list[Any]:
    """The tensors, of the dtype of that name."""
    return [ops.cast(t, dtype) for t in tensors]


def global_norm(tensors: Iterable[Any]) -> Any:
    """Euclidean norm over all elements of all tensors."""
    return ops.sqrt(sum((ops.sum(ops.square(t)) for t in tensors), start=0.0))


def select(condition: Any, yes: Iterable[Any], no: Iterable[Any]) -> list[Any]:
    """One list of tensors or the other."""
    return [ops.where(condition, a, b) for a, b in zip(yes, no, strict=True)]


def weighted_sum(a: Any, x: Iterable[Any], b: Any, y: Iterable[Any]) -> list[Any]:
    """`a * x + b * y` for each pair of tensors."""
    return [a * each_x + b * each_y for each_x, each_y in zip(x, y, strict=True)]


def displace(
    variables: Sequence[Any], slots: Sequence[Any], directions: Iterable[Any], length: Any, finite: Any
) -> None:
    """Add to each variable `length` times its direction, if that is `finite`; its slot receives what was added.

    One variable at a time, so that no second copy of the weights is needed.
    """
    for variable, slot, direction in zip(variables, slots, directions, strict=True):
        (value,) = backend.values([variable])
        w = ops.cast(value, slot.dtype)
        # The sum is rounded: only what was really added leads back to `w`.
        moved = ops.cast(w + ops.where(finite, length * direction, 0.0), variable.dtype)
        applied = ops.cast(moved, w.dtype) - w
        backend.assign([slot, variable], [applied, ops.cast(w + applied, variable.dtype)])


def replace(variables: Sequence[Any], slots: Sequence[Any]) -> None:
    """Subtract from each variable what its slot says was added."""
    for variable, slot in zip(variables, slots, strict=True):
        w, e = backend.values([variable, slot])
        backend.assign([variable], [ops.cast(ops.cast(w, e.dtype) - e, w.dtype)])
