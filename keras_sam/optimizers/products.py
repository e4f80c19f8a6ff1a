"""Products over all elements of all tensors: the algorithms see a network's gradient as one vector."""

from collections.abc import Iterable
from typing import Any

from keras import ops


def inner_product(a: Iterable[Any], b: Iterable[Any]) -> Any:
    """Sum of the products of corresponding elements."""
    return sum((ops.sum(x * y) for x, y in zip(a, b, strict=True)), start=0.0)


def projection(a: list[Any], b: list[Any]) -> Any:
    """The number `c` for which `a - c * b` is orthogonal to `b`: a·b / ‖b‖², and 0 if `b` is 0."""
    square = inner_product(b, b)
    return ops.where(square > 0, inner_product(a, b) / ops.where(square > 0, square, 1.0), 0.0)
