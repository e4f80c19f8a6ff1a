"""Checks of what a user passes to an optimizer: each returns the value, or raises an error that says what is wrong."""

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras


def number(name: str, value: Any, allowed: Callable[[float], bool], what: str) -> float:
    """A finite float for which `allowed` holds; `what` describes such a float."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)  # NumPy's, too
    if not is_number or not math.isfinite(value) or not allowed(value):
        raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")
    return float(value)


def positive_integer(name: str, value: Any, alternative: str = "") -> int:
    """An integer from 1 on; the error names the `alternative`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be an integer >= 1{alternative}. Received: {name}={value!r}")
    return int(value)


def time(name: str, value: Any) -> int | float:
    """A number of steps, an integer from 0 on, or a share of the training, a float from 0.0 to 1.0."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)  # NumPy's, too
    is_whole = is_number and isinstance(value, numbers.Integral)
    if is_number and 0 <= float(value) <= (math.inf if is_whole else 1.0):
        return int(value) if is_whole else float(value)
    raise ValueError(
        f"`{name}` must be a number of steps, an integer >= 0, or a share of the training, a float from 0.0 to 1.0. "
        f"Received: {name}={value!r}"
    )


def splits(value: Any) -> int | None:
    """A number of parts, or `None` for a batch in one piece."""
    if value is None:
        return None
    found = positive_integer("num_batch_splits", value, " or None")
    return None if found == 1 else found


def radius(rho: Any) -> Any:
    """A float from 0 on, or a schedule."""
    if isinstance(rho, keras.optimizers.schedules.LearningRateSchedule):
        return rho
    what = "a float >= 0 or a `keras.optimizers.schedules.LearningRateSchedule`"
    return number("rho", rho, lambda value: value >= 0, what)


def patterns(name: str, value: Any) -> str | list[str] | None:
    """A regular expression, or a list of them, or `None`."""
    if value is None:
        return None
    found = [value] if isinstance(value, str) else value
    try:
        if not isinstance(found, Sequence) or not found:
            raise TypeError("neither a string nor a list of strings")
        for pattern in found:
            re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(
            f"`{name}` must be a regular expression for variable paths, such as r'(gamma|beta)$', or a list of them. "
            f"Received: {name}={value!r} ({error})"
        ) from error
    return value if isinstance(value, str) else list(found)


def matching(name: str, value: str | list[str], paths: Sequence[str]) -> list[bool]:
    """Which of `paths` match one of the patterns; every pattern must match some path."""
    each = [value] if isinstance(value, str) else value
    for pattern in each:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"`{name}` must match trainable variables, and {pattern!r} matches none of {list(paths)}. "
                f"Received: {name}={value!r}"
            )
    return [any(re.search(pattern, path) for pattern in each) for path in paths]


def known_again(known: Mapping[str, bool], paths: Sequence[str]) -> list[bool] | None:
    """What was known of each variable, if these are the same ones, in a model that may name them without itself."""
    same = len(known) == len(paths) and all(
        f"/{old}".endswith(f"/{new}") or f"/{new}".endswith(f"/{old}") for old, new in zip(known, paths, strict=True)
    )
    return list(known.values()) if same else None


def base_optimizer(identifier: Any, wrapper: type) -> keras.optimizers.Optimizer:
    """The Keras optimizer that `identifier` stands for, not itself a `wrapper`."""
    hint = (
        "`base_optimizer` must be a Keras optimizer, its name or its config, such as `keras.optimizers.SGD(0.1)` "
        f"or 'sgd'. Received: base_optimizer={identifier!r}"
    )
    try:
        optimizer = keras.optimizers.get(identifier)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(hint) from error
    if optimizer is None:
        raise ValueError(hint)
    if isinstance(innermost(optimizer), wrapper):
        raise ValueError(
            "A SAM optimizer cannot wrap another: each would perturb the other's gradients. "
            f"Pass the inner one's base optimizer. Received: base_optimizer={identifier}"
        )
    return optimizer


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that updates the weights, below any `LossScaleOptimizer`."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer
