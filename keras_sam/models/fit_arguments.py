"""The arguments of a `fit`, Keras's or one of a class's own."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras


class FitArguments:
    """What a `fit` is called with.

    Args:
        fit: The method.
        args: As they were passed.
        kwargs: As they were passed.
    """

    def __init__(self, fit: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._bound = inspect.signature(fit).bind(*args, **kwargs)

    def get(self, name: str) -> Any:
        """An argument, or `None` if it was not passed."""
        return self._place(name).get(name)

    def add_callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Let these come after all others."""
        place, given = self._place("callbacks"), self.get("callbacks")
        if isinstance(given, keras.callbacks.CallbackList):
            for callback in callbacks:
                callback.set_params(given.params)
                given.callbacks.append(callback)
            return
        before = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
        place["callbacks"] = [*before, *callbacks]

    def call(self, fit: Callable[..., Any]) -> Any:
        """Call the method with them."""
        return fit(*self._bound.args, **self._bound.kwargs)

    def _place(self, name: str) -> dict[str, Any]:
        """Where the argument stands: among those that the method names, or in its `**kwargs`."""
        parameters = self._bound.signature.parameters
        if name in parameters:
            return self._bound.arguments
        rest = [each.name for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
        found: dict[str, Any] = self._bound.arguments.setdefault(rest[0], {}) if rest else {}
        return found
