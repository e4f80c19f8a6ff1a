"""Attributes of a wrapper that are those of what it wraps."""

from typing import Any


class SeenThrough:
    """A descriptor that reads and writes the attribute of the same name on the innermost optimizer.

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
