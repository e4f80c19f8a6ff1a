"""TensorFlow: variables change in place, through the distribution strategy when there is one."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.random.seed_generator import global_seed_generator

from keras_sam.backend import memory, parts
from keras_sam.backend.fused import cast, displace, global_norm, replace, select, weighted_sum

__all__ = ["cast", "displace", "global_norm", "replace", "select", "weighted_sum"]


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """Dense gradients, summed over the replicas.

    The gradient of an embedding comes as slices in which a row may stand several times; the norm of
    the slices is not the norm of the gradient.
    """
    dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    present = [g for g in dense if g is not None]
    if not present or not _in_distributed_replica():
        return dense
    replica = tf.distribute.get_replica_context()
    summed = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if g is None else next(summed) for g in dense]


def values(variables: Sequence[Any]) -> list[Any]:
    """The variables' tensors."""
    return [tf.convert_to_tensor(_native(v)) for v in variables]


def assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give each variable its value, on every replica."""
    native = [_native(v) for v in variables]
    if not _in_distributed_replica():
        for variable, value in zip(native, values, strict=True):
            variable.assign(value)
        return

    def update(strategy: Any, variables: Sequence[Any], values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable, lambda v, x: v.assign(x), args=(value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(update, tf.distribute.get_strategy(), native, list(values))


def share(gradient: Any) -> Any:
    """This replica's part of a gradient that is the sum over all, for the base optimizer to sum again."""
    return gradient / tf.distribute.get_strategy().num_replicas_in_sync if _in_distributed_replica() else gradient


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient and Hessian-vector product of `loss(weights, batch)`, a scalar, in the weights.

    The product takes `(weights, batch, vectors)`.
    """

    def gradient(weights: Any, batch: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = loss(weights, batch)
        return dense(tape, value, weights)

    def product(weights: Any, batch: Any, vectors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            slope = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradient(weights, batch), vectors, strict=True)])
        return dense(tape, slope, weights)

    def dense(tape: Any, target: Any, weights: Any) -> Any:
        gradients = tape.gradient(target, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradients]

    return tuple(tf.function(function, reduce_retracing=True) for function in (loss, gradient, product))


def sam_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    """Run the passes of one step of a SAM optimizer, in each of which `step` is run."""
    # Keras leaves building to the first call here; what the passes change must be known before it.
    model._symbolic_build(data_batch=data)
    recoverable = tf.executing_eagerly()
    return memory.sam_step(model, step, data, [], _Snapshot, _for_each_part, _choose, recoverable)


class _Snapshot(memory.Snapshot):
    """Holds the state of Keras's global seed generator too."""

    def __init__(self, variables: Sequence[Any]) -> None:
        if _in_distributed_replica():  # where no variable can be made
            generator = get_global_attribute("global_seed_generator")
        else:
            generator = global_seed_generator()
        super().__init__(variables if generator is None else [*variables, generator.state])


def _choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    if _in_distributed_replica():
        raise ValueError(
            "TensorFlow cannot choose between passes under a distribution strategy: `fit` takes no `interval` there. "
            "Save passes with `ascent_fraction` or `MSAMOptimizer`, or write a loop that chooses: `first_step` and "
            "`second_step` in one `strategy.run`, `single_step` in another."
        )
    return tf.cond(condition, yes, no)


def _for_each_part(run: Callable[[Any, int, Any], Any], data: Any, splits: int) -> Any:
    """Run each part of the batch in turn, in the graph if the batch's size is only known there."""
    if _in_distributed_replica():
        raise ValueError(
            "`num_batch_splits` works on one device, not under a TensorFlow distribution strategy: leave it out there, "
            "and let several devices share one perturbation of the whole batch."
        )
    if parts.batch_size(data) is not None:
        for index, (part, share) in enumerate(parts.split(data, splits)):
            result = run(part, index, share)
        return result
    total = tf.shape(parts.first(data))[0]

    def run_part(index: int) -> Any:
        begin, end = parts.bounds(index, total, splits)
        share = tf.cast(end - begin, "float32") / tf.cast(total, "float32")
        return run(parts.between(data, begin, end), index, share)

    result = run_part(0)
    for index in range(1, splits):
        result = tf.cond(index < total, lambda index=index: run_part(index), lambda result=result: result)
    return result


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _in_distributed_replica() -> bool:
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None
