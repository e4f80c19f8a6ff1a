"""Attributes of the base optimizer, seen through the optimizer that wraps it."""

from typing import Any

import keras

class SeenThrough:
    """A descriptor that reads and writes the attribute of the same name on the base optimizer.

    Writes are ignored until the base optimizer is set: Keras's constructor fills these
    attributes with its own defaults, which say nothing about the base optimizer.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else getattr(optimizer.inner_optimizer, self.name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        if "base_optimizer" in vars(optimizer):
            setattr(optimizer.inner_optimizer, self.name, value)


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that updates the weights, below any `LossScaleOptimizer`."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer
