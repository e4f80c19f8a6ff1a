"""What an algorithm remembers of each variable."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend


class Slots:
    """One optimizer variable for each trainable variable, placed and sharded like it.

    Args:
        optimizer: The optimizer whose slots they are.
        variables: The trainable variables.
        name: What they hold.
        initializer: What they begin with.
    """

    def __init__(self, optimizer: Any, variables: Sequence[Any], name: str, initializer: Any = "zeros") -> None:
        self.variables = [optimizer.add_slot(v, name, initializer) for v in variables]

    def read(self, indices: Iterable[int]) -> list[Any]:
        """The tensors at `indices`."""
        tensors: list[Any] = backend.values([self.variables[i] for i in indices])
        return tensors

    def write(self, values: Mapping[int, Any]) -> None:
        """Give the slots at the keys of `values` new values."""
        backend.assign([self.variables[i] for i in values], list(values.values()))

    def write_if(self, condition: Any, values: Mapping[int, Any]) -> None:
        """`write` where the condition holds; else the slots stay as they are."""
        self.write(dict(zip(values, backend.select(condition, values.values(), self.read(values)), strict=True)))

    def blended(self, keep: float, values: Mapping[int, Any], add: Any) -> dict[int, Any]:
        """`keep` times what the slots hold and `add` times the values, of which averages are made; not written yet."""
        return dict(zip(values, backend.weighted_sum(keep, self.read(values), add, values.values()), strict=True))

    def clear_all_but(self, indices: Iterable[int]) -> None:
        """Set the other slots to zero."""
        kept = set(indices)
        others = [i for i, slot in enumerate(self.variables) if slot is not None and i not in kept]
        self.write({i: ops.zeros_like(value) for i, value in zip(others, self.read(others), strict=True)})


class MovingAverage(Slots):
    """An exponential average of gradients that begins with the first; one that is not finite is left out."""

    def __init__(self, optimizer: Any, variables: Sequence[Any], name: str) -> None:
        super().__init__(optimizer, variables, name)
        with keras.name_scope(name):
            self.begun = optimizer.add_variable(shape=(), dtype="bool", name="begun")

    def update(self, gradients: Mapping[int, Any], weight: float) -> dict[int, Any]:
        """Add `gradients` with `weight`, and return the new average, in which every gradient has its part."""
        (begun,) = backend.values([self.begun])
        finite = ops.isfinite(backend.global_norm(gradients.values()))
        averages = self.blended(1 - weight, gradients, weight)
        new = dict(zip(gradients, backend.select(begun, averages.values(), gradients.values()), strict=True))
        self.write_if(finite, new)
        backend.assign([self.begun], [ops.logical_or(begun, finite)])
        return new
