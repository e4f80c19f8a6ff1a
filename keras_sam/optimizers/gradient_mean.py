"""The mean of the gradients of a batch's parts, kept in slot variables."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend


class GradientMean:
    """One slot for each variable, to which the parts of a batch add their share in turn.

    Args:
        optimizer: The optimizer whose slots they are.
        variables: The trainable variables.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        self.slots = optimizer.add_optimizer_variables(variables, "gradient_mean")
        self.present: set[int] = set()

    def add(self, gradients: Mapping[int, Any], share: Any, first: bool) -> None:
        """Add `share` of each gradient, by the index of its variable; the `first` part begins anew."""
        if first:
            self.present.clear()
        self.present.update(gradients)
        slots = {i: slot for i, slot in enumerate(self.slots) if slot is not None}
        means = []
        for i, old in zip(slots, backend.values(list(slots.values())), strict=True):
            base = ops.zeros_like(old) if first else old
            means.append(
                base + ops.cast(gradients[i], old.dtype) * ops.cast(share, old.dtype) if i in gradients else base
            )
        backend.assign(list(slots.values()), means)

    def values(self) -> list[Any]:
        """The mean gradients; `None` for a variable that had none in any part."""
        return [slot.value if slot is not None and i in self.present else None for i, slot in enumerate(self.slots)]
