"""JAX: the training step is a pure function of the model's state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from keras import ops

from keras_sam.backend.fused import cast, displace, global_norm, replace, select, weighted_sum
from keras_sam.backend.parts import beginning, split

__all__ = ["cast", "displace", "global_norm", "replace", "select", "weighted_sum"]


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


def share(gradient: Any) -> Any:
    """The gradient itself, as nothing will sum it over replicas."""
    return gradient


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient and Hessian-vector product of `loss(weights, batch)`, a scalar, in the weights.

    The product takes `(weights, batch, vectors)`.
    """

    def product(weights: Any, batch: Any, vectors: Any) -> Any:
        return jax.jvp(lambda w: jax.grad(loss)(w, batch), (weights,), (vectors,))[1]

    return jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(product)


def sam_step(model: Any, step: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """Run the passes of one step of a SAM optimizer, in each of which `step` is run."""
    optimizer = model.optimizer

    def climb_and_descend(state: Any, data: Any) -> tuple[Any, Any]:
        if not optimizer.ascent_needs_gradient:
            result = _single_pass(optimizer, step, _climbed(optimizer, state), data, "descent")
        elif optimizer.num_batch_splits is None:
            result = _two_passes(model, step, state, data, "descent")
        else:
            result = _parts(model, step, state, data)
        return _undo_if_skipped(optimizer, state, result)

    def single_pass(state: Any, data: Any) -> tuple[Any, Any]:
        logs, new_state = _single_pass(optimizer, step, state, data, "single")
        metrics = new_state[3]
        logs, metrics = _with_sharpness(model, logs, metrics, metrics, metrics)  # nothing new: as in the other branch
        return _undo_if_skipped(optimizer, state, (logs, (*new_state[:3], metrics)))

    run: Callable[..., tuple[Any, Any]] = climb_and_descend
    try:
        if optimizer.interval > 1:
            climbs = optimizer.stateless_is_ascent_step(state[2])
            if isinstance(climbs, jax.core.Tracer):
                result: tuple[Any, Any] = jax.lax.cond(climbs, climb_and_descend, single_pass, state, data)
                return result
            run = climb_and_descend if climbs else single_pass
            compiled = getattr(model, "_compiled_steps", None)
            if compiled is not None:
                if run.__name__ not in compiled:
                    compiled[run.__name__] = jax.jit(run, donate_argnums=0)
                run = compiled[run.__name__]
        return run(state, data)
    except BaseException:
        _keep(model, state)
        raise
    finally:
        optimizer.phase = None


def _climbed(optimizer: Any, state: Any) -> Any:
    """The state after a climb that needs no gradient."""
    weights, non_trainable_variables, optimizer_variables, metrics_variables = state
    weights, optimizer_variables = optimizer.stateless_first_step(optimizer_variables, None, weights)
    return weights, non_trainable_variables, optimizer_variables, metrics_variables


def _single_pass(optimizer: Any, step: Callable[..., Any], state: Any, data: Any, phase: str) -> tuple[Any, Any]:
    optimizer.phase = phase
    result: tuple[Any, Any] = step(state, data)
    return result


def _parts(model: Any, step: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """Two passes over each part of the batch, and one step of the base optimizer."""
    optimizer = model.optimizer
    for index, (part, share) in enumerate(split(data, optimizer.num_batch_splits)):
        optimizer.part = index, share
        logs, state = _two_passes(model, step, state, part, "collect")
    weights, non_trainable_variables, optimizer_variables, metrics_variables = state
    weights, optimizer_variables = optimizer.stateless_apply_collected(optimizer_variables, weights)
    return logs, (weights, non_trainable_variables, optimizer_variables, metrics_variables)


def _two_passes(model: Any, step: Callable[..., Any], state: Any, data: Any, descent: str) -> tuple[Any, Any]:
    """Run `step` in the ascent phase and again, from the perturbed weights, in the `descent` phase.

    The second pass starts from the same non-trainable variables as the first, so that it draws the
    same random numbers; what it makes of them and of the metrics is dropped (and never computed
    once compiled).
    """
    _, non_trainable_variables, _, metrics_at_start = state
    optimizer = model.optimizer
    optimizer.phase = "ascent"
    first = beginning(data, optimizer.ascent_fraction)
    logs, (perturbed, new_non_trainable_variables, optimizer_variables, metrics_variables) = step(state, first)
    optimizer.phase = descent
    second = (perturbed, non_trainable_variables, optimizer_variables, metrics_variables)
    _, (weights, _, optimizer_variables, metrics_after_second) = step(second, data)
    logs, metrics_variables = _with_sharpness(model, logs, metrics_at_start, metrics_variables, metrics_after_second)
    return logs, (weights, new_non_trainable_variables, optimizer_variables, metrics_variables)


def _with_sharpness(model: Any, logs: Any, start: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Logs and metrics after the first pass, with what the two passes tell of the sharpness."""
    reading: Any = getattr(model, "_sharpness", None)
    variables = list(model.metrics_variables)
    watched = [next(i for i, v in enumerate(variables) if v is w) for w in (reading.watched(model) if reading else ())]
    if not watched:
        return logs, first
    losses = [[values[i] for i in watched] for values in (start, first, first, second)]
    with keras.StatelessScope(state_mapping=zip(variables, first, strict=True)) as scope:
        reading.record(*losses)
        logs = logs | {"sharpness": reading.metric.result()}
    return logs, [scope.get_current_value(v) for v in variables]


def _undo_if_skipped(optimizer: Any, before: Any, result: tuple[Any, Any]) -> tuple[Any, Any]:
    """The logs and the state after a step, with weights and statistics from before it if the loss scaler skipped it.

    It skips a step that overflows, and halves the loss scale. The overflow may be in the second pass
    only, after the statistics have moved, or may have gone into them.
    """
    if optimizer.loss_scaler is None:
        return result
    logs, after = result
    scale = next(i for i, v in enumerate(optimizer.variables) if v is optimizer.loss_scaler.dynamic_scale)
    skipped = after[2][scale] < before[2][scale]

    def choose(old: Any, new: Any) -> Any:
        return ops.where(skipped, old, new) if jax.numpy.issubdtype(new.dtype, jax.numpy.floating) else new

    weights, non_trainable_variables = (
        [choose(old, new) for old, new in zip(before[i], after[i], strict=True)] for i in (0, 1)
    )
    return logs, (weights, non_trainable_variables, *after[2:])


def _keep(model: Any, state: Any) -> None:
    """Hand the state before the step back to `fit`, which has emptied the variables and would lose it.

    Only in eager mode: in a compiled step the state is a tracer, or was donated to the computation.
    """
    emptied = any(v._value is None for v in model.trainable_variables)
    lost = any(
        isinstance(leaf, jax.core.Tracer) or getattr(leaf, "is_deleted", bool)() for leaf in jax.tree.leaves(state)
    )
    if emptied and not lost:
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
