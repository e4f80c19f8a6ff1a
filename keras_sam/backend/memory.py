"""The two passes where a training step changes the model in place, as on TensorFlow and PyTorch."""

from collections.abc import Callable
from typing import Any

import keras


def two_pass_step(
    model: Any,
    step: Callable[[Any], Any],
    data: Any,
    remember: Callable[[list[Any]], Callable[[], None]],
    recoverable: bool,
) -> Any:
    """Run `step` in the ascent phase and again, on the perturbed weights, in the descent phase.

    Before the second pass, statistics and random state go back to where the first pass started, so
    that it draws the same random numbers; after it they and the metrics go back to where the first
    pass ended. If a pass fails, everything goes back to the start.

    Args:
        model: The model, with a SAM optimizer.
        step: The training step to run twice.
        data: The batch.
        remember: Copies the given variables and the random state, and returns a function that
            puts them back.
        recoverable: Whether variables can be put back if a pass fails: not while a graph is traced.
    """
    optimizer = model.optimizer
    variables = [*_state_variables(model), *model.metrics_variables]
    back_to_start = remember(variables)
    try:
        optimizer.phase = "ascent"
        logs = step(data)
        back_to_first_pass = remember(variables)
        back_to_start()
        optimizer.phase = "descent"
        step(data)
        back_to_first_pass()
    except BaseException:
        if recoverable:
            optimizer.restore()
            back_to_start()
        raise
    finally:
        optimizer.phase = None
    return logs


def _state_variables(model: keras.Model) -> list[Any]:
    """What a forward pass may write: batch-norm statistics, seeds, ...; not frozen weights, which it only reads."""
    frozen = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    return [v for v in model.non_trainable_variables if id(v) not in frozen]
