"""The mean of the gradients of a batch's parts, kept in slot variables."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_sam import backend
from keras_sam.optimizers.slots import Slots


class GradientMean(Slots):
    """One slot for each variable, to which the parts of a batch add their share in turn."""

    def __init__(self, optimizer: Any, variables: Sequence[Any], name: str = "gradient_mean") -> None:
        super().__init__(optimizer, variables, name)
        self.present: set[int] = set()

    def begin(self) -> None:
        """Forget the batch before."""
        self.present.clear()
        self.clear_all_but(())

    def add(self, gradients: Mapping[int, Any], share: Any) -> None:
        """Add `share` of each gradient, by the index of its variable."""
        self.present.update(gradients)
        tensors = list(gradients.values())
        share = ops.cast(share, tensors[0].dtype) if tensors else share
        self.write(self.blended(1.0, gradients, share))

    def means(self, variables: Sequence[Any]) -> list[Any]:
        """The mean gradients, of the dtypes of their `variables`; `None` for one that had none in any part."""
        return [
            ops.cast(backend.values([slot])[0], variable.dtype) if slot is not None and i in self.present else None
            for i, (slot, variable) in enumerate(zip(self.variables, variables, strict=True))
        ]
