"""TensorFlow: variables change in place, through the distribution strategy when there is one."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from keras.src.random.seed_generator import global_seed_generator

from keras_sam.backend import memory


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


def global_norm(tensors: Sequence[Any]) -> Any:
    """Euclidean norm over all elements of all tensors."""
    return ops.sqrt(sum(ops.sum(ops.square(t)) for t in tensors))


def two_pass_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    """Run `step` in the ascent phase and again, on the perturbed weights, in the descent phase."""
    # Keras leaves building to the first call here; what the passes change must be known before it.
    model._symbolic_build(data_batch=data)
    return memory.two_pass_step(model, step, data, _remember, recoverable=tf.executing_eagerly())


def _remember(variables: Sequence[Any]) -> Callable[[], None]:
    native = [_native(v) for v in (*variables, global_seed_generator().state)]
    copies = [tf.identity(v) for v in native]

    def put_back() -> None:
        for variable, copy in zip(native, copies, strict=True):
            variable.assign(copy)

    return put_back


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _in_distributed_replica() -> bool:
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None
