"""JAX: the training step is a pure function of the model's state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from keras import ops

from keras_sam.backend.parts import split


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """Nothing to do: the compiler sums the gradients of a sharded batch."""
    return list(gradients)


def values(variables: Sequence[Any]) -> list[Any]:
    """The variables' tensors."""
    return [v.value for v in variables]


def assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give each variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def global_norm(tensors: Sequence[Any]) -> Any:
    """Euclidean norm over all elements of all tensors."""
    return ops.sqrt(sum(ops.sum(ops.square(t)) for t in tensors))


def sam_step(model: Any, step: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """Run the passes of one SAM step: `step` in the ascent phase and again in the descent phase."""
    optimizer = model.optimizer
    try:
        if optimizer.num_batch_splits is None:
            logs, new_state = _two_passes(optimizer, step, state, data, "descent")
        else:
            new_state = state
            for index, (part, share) in enumerate(split(data, optimizer.num_batch_splits)):
                optimizer.part = index, share
                logs, new_state = _two_passes(optimizer, step, new_state, part, "collect")
            weights, non_trainable_variables, optimizer_variables, metrics_variables = new_state
            weights, optimizer_variables = optimizer.stateless_apply_collected(optimizer_variables, weights)
            new_state = weights, non_trainable_variables, optimizer_variables, metrics_variables
    except BaseException:
        _keep(model, state)
        raise
    finally:
        optimizer.phase = None
    if optimizer.loss_scaler is not None:
        new_state = _undo_if_skipped(optimizer, state, new_state)
    return logs, new_state


def _two_passes(optimizer: Any, step: Callable[..., Any], state: Any, data: Any, descent: str) -> tuple[Any, Any]:
    """Run `step` in the ascent phase and again, from the perturbed weights, in the `descent` phase.

    The second pass starts from the same non-trainable variables as the first, so that it draws the
    same random numbers; what it makes of them and of the metrics is dropped (and never computed
    once compiled).
    """
    _, non_trainable_variables, _, _ = state
    optimizer.phase = "ascent"
    logs, (perturbed, new_non_trainable_variables, optimizer_variables, metrics_variables) = step(state, data)
    optimizer.phase = descent
    second = (perturbed, non_trainable_variables, optimizer_variables, metrics_variables)
    _, (weights, _, optimizer_variables, _) = step(second, data)
    return logs, (weights, new_non_trainable_variables, optimizer_variables, metrics_variables)


def _undo_if_skipped(optimizer: Any, before: Any, after: Any) -> Any:
    """The state after a step, with the weights and statistics from before it if the loss scaler skipped the step.

    It skips a step that overflows, and halves the loss scale. The overflow may be in the second pass
    only, after the statistics have moved, or may have gone into them.
    """
    scale = next(i for i, v in enumerate(optimizer.variables) if v is optimizer.loss_scaler.dynamic_scale)
    skipped = after[2][scale] < before[2][scale]

    def choose(old: Any, new: Any) -> Any:
        return ops.where(skipped, old, new) if jax.numpy.issubdtype(new.dtype, jax.numpy.floating) else new

    weights, non_trainable_variables = (
        [choose(old, new) for old, new in zip(before[i], after[i], strict=True)] for i in (0, 1)
    )
    return weights, non_trainable_variables, *after[2:]


def _keep(model: Any, state: Any) -> None:
    """Hand the state before the step back to `fit`, which has emptied the variables and would lose it.

    Only in eager mode: in a compiled step the state is a tracer, or was donated to the computation.
    """
    emptied = any(v._value is None for v in model.trainable_variables)
    if emptied and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
