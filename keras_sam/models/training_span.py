"""How long a training is, for a radius that is given in shares of it."""

from collections.abc import Mapping
from typing import Any

import keras


class TrainingSpan(keras.callbacks.Callback):
    """Tells the model's optimizer where the training begins and how many steps it has, by the optimizer's count.

    A training that goes on from a later epoch has begun before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Before the first epoch, when other callbacks have loaded what they load."""
        if self.told:
            return
        optimizer = self.model.optimizer
        if self.params["steps"] is None:
            raise ValueError(
                "A `rho` in shares of the training needs to know how long that is, and the data do not tell: pass "
                f"`steps_per_epoch` to `fit`, or give `rho` in steps. Received: rho={optimizer.rho!r}"
            )
        steps = self.params["steps"] / (optimizer.gradient_accumulation_steps or 1)
        iterations = int(keras.ops.convert_to_numpy(optimizer.iterations))
        optimizer.begin_training(iterations - epoch * steps, self.params["epochs"] * steps)
        self.told = True
