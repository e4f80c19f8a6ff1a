"""JAX: the training step is a pure function of the model's state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from keras import ops


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


def two_pass_step(model: Any, step: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """Run `step` in the ascent phase and again, from the perturbed weights, in the descent phase.

    The second pass starts from the same non-trainable variables as the first, so that it draws the
    same random numbers; what it makes of them and of the metrics is dropped (and never computed
    once compiled).
    """
    optimizer = model.optimizer
    _, non_trainable_variables, _, _ = state
    try:
        optimizer.phase = "ascent"
        logs, (perturbed, new_non_trainable_variables, optimizer_variables, metrics_variables) = step(state, data)
        optimizer.phase = "descent"
        second = (perturbed, non_trainable_variables, optimizer_variables, metrics_variables)
        _, (trainable_variables, _, optimizer_variables, _) = step(second, data)
    except BaseException:
        _keep(model, state)
        raise
    finally:
        optimizer.phase = None
    return logs, (trainable_variables, new_non_trainable_variables, optimizer_variables, metrics_variables)


def _keep(model: Any, state: Any) -> None:
    """Hand the state before the step back to `fit`, which has emptied the variables and would lose it.

    Only in eager mode: in a compiled step the state is a tracer, or was donated to the computation.
    """
    emptied = any(v._value is None for v in model.trainable_variables)
    if emptied and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
