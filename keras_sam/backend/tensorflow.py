"""TensorFlow: variables change in place, through the distribution strategy when there is one."""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras.src.losses.loss import unscale_loss_for_distribution

from keras_sam.backend import memory, parts
from keras_sam.backend.fused import cast, displace, global_norm, replace, select, weighted_sum
from keras_sam.backend.running import watch

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


def if_equal(numbers: Sequence[Any], data: Any, message: str) -> Any:
    """The data; the running graph fails with the message if the numbers differ."""
    with tf.control_dependencies([tf.debugging.assert_equal(number, numbers[0], message) for number in numbers[1:]]):
        return keras.tree.map_structure(lambda leaf: leaf if leaf is None else tf.identity(leaf), data)


def sam_step(model: Any, run: Callable[[Any], Any], data: Any) -> Any:
    """Make a step of `model`, of which `run` is the user's own."""
    watch("apply")
    memory.watch_assignments()
    run = getattr(run, "python_function", run)  # without a `tf.function` around it, as Keras compiles the whole
    return memory.sam_step(model, run, data, partial(_Step, _graph()), _for_each_part, _choose)


def make_train_function(model: Any, make: Callable[[], Any], force: bool) -> None:
    """Let Keras make the function that trains; where steps differ on several devices or in XLA, two of one kind each.

    Within a step devices could not choose, as gradients cannot be summed in a branch; and XLA runs convolutions inside
    a condition many times slower on a CPU.
    """
    with model.distribute_strategy.scope():
        outside = tf.distribute.has_strategy() or (model.jit_compile and not model.run_eagerly)
    if not getattr(model.optimizer, "steps_differ", False) or not outside:
        make()
        return
    if model.train_function is not None and not force:
        return
    functions = {}
    for climbs in (True, False):
        model.train_function = None
        make()
        functions[climbs] = model.train_function
    model.train_function = partial(_train, model, functions)


def _train(model: Any, functions: Mapping[bool, Callable[[Any], Any]], iterator: Any) -> Any:
    """Make `steps_per_execution` steps, one by one, and return the logs of the last."""
    logs = None
    try:
        for batch in itertools.islice(_batches(iterator), model.steps_per_execution):
            vars(model)["_climbs"] = bool(model.optimizer.is_ascent_step())
            logs = functions[model._climbs](iter([batch]))
    finally:
        vars(model)["_climbs"] = None
    if logs is None:
        raise StopIteration
    return logs


def _batches(iterator: Any) -> Iterator[Any]:
    """The batches of an iterator; one over several devices gives empty ones at its end, if it is not asked first."""
    if not isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
        yield from iterator
        return
    while (batch := iterator.get_next_as_optional()).has_value():
        yield batch.get_value()


def _graph() -> Any:
    """The graph that is being built, or `None` in eager mode."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


class _Step(memory.InPlaceStep):
    """A step in a graph or in eager mode.

    Where `apply` stands in a `tf.cond`, only the running graph knows whether the asking run comes by, and no tensor of
    the branch can be used outside: the gradients leave it in variables, and the run goes on to its end.
    """

    def __init__(self, outermost: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.whole, self.place = outermost, _graph()
        self.asked_in: Any = None
        self.post: _Post | None = None

    def untrained(self) -> list[Any]:
        return [*super().untrained(), *_raw_variables(self.model)]

    def note_loss(self, loss: Any) -> None:
        super().note_loss(unscale_loss_for_distribution(loss))

    def traced(self) -> bool:
        return self.place is not None

    def recoverable(self) -> bool:
        return self.place is None

    def outermost(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.whole is None else self.whole.as_default()

    def is_nested(self) -> bool:
        nested = _is_branch(_graph(), of=self.place)
        if nested and _in_distributed_replica():
            raise RuntimeError(
                "A SAM optimizer was applied inside a `tf.cond` in the training step, which works on one device, not "
                "under a TensorFlow distribution strategy, as gradients cannot be summed in a branch. Apply it on "
                "every batch, or write the loop with `first_step` and `second_step`."
            )
        return nested

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        self.asked_in, self.post = _graph(), None
        yield

    def answer(self, optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> None:
        if not _is_branch(_graph(), of=self.asked_in):
            held = (tf.Variable, keras.Variable)  # whose values will be put back
            super().answer(optimizer, [tf.convert_to_tensor(g) if isinstance(g, held) else g for g in gradients])
        self.post = _Post.of(optimizer, self.asked)
        self.post.put(gradients)

    def posted(self, optimizer: Any) -> tuple[Any, Any]:
        return (None, False) if self.post is None else self.post.take()

    def choose(self, condition: Any, yes: Callable[[], None], no: Callable[[], None]) -> None:
        if isinstance(condition, bool):
            super().choose(condition, yes, no)
        else:
            tf.cond(condition, lambda: (yes(), 0)[1], lambda: (no(), 0)[1])  # type: ignore[func-returns-value]


def _raw_variables(model: Any) -> list[Any]:
    """Variables of TensorFlow's own that the model or a layer keeps as attributes, alone or in a list or a dict."""
    found = []
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            value = list(value.values()) if isinstance(value, dict) else value
            items = value if isinstance(value, (list, tuple)) else [value]
            found += [item for item in items if isinstance(item, tf.Variable)]
    return found


def _is_branch(graph: Any, of: Any) -> bool:
    """Whether `graph` is a branch of a `tf.cond` in the graph `of`, and not that itself."""
    inner = graph
    while inner is not of and type(inner).__name__ == "CondBranchFuncGraph":
        inner = inner.outer_graph
    if inner is not of:
        raise RuntimeError(
            "A SAM optimizer was applied inside a loop of TensorFlow's or a `tf.function` within the training step, "
            "where it cannot ask for the gradient at the perturbed weights. Call `apply` outside of it: Keras compiles "
            "the whole step by itself, and a loop in Python is as good there; or write the loop with `first_step` and "
            "`second_step`."
        )
    return graph is not of


class _Post:
    """Where a branch of a graph leaves the gradients that were found in it."""

    of_optimizers: ClassVar[weakref.WeakKeyDictionary[Any, dict[Any, Any]]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.variables: dict[int, Any] = {}
        self.present: list[bool] = []
        with tf.init_scope():
            self.full = tf.Variable(False, trainable=False)

    @classmethod
    def of(cls, optimizer: Any, turn: Any) -> Any:
        """The one for this call of an optimizer, which all compiled steps share."""
        posts = cls.of_optimizers.setdefault(optimizer, {})
        if turn not in posts:
            posts[turn] = cls()
        return posts[turn]

    def put(self, gradients: Sequence[Any]) -> None:
        """Leave gradients, `None` among them."""
        tensors = synchronize(gradients)
        self.present = [tensor is not None for tensor in tensors]
        for i, tensor in enumerate(tensors):
            if tensor is None:
                continue
            if i not in self.variables:
                with tf.init_scope():
                    self.variables[i] = tf.Variable(tf.zeros(tensor.shape, tensor.dtype), trainable=False)
            self.variables[i].assign(tensor)
        self.full.assign(True)

    def take(self) -> tuple[list[Any], Any]:
        """The gradients, and whether there are any; the next run finds it empty."""
        found = [tf.identity(self.variables[i]) if there else None for i, there in enumerate(self.present)]
        reached = tf.identity(self.full)
        self.full.assign(False)
        return found, reached


def _choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    if isinstance(condition, bool):
        return yes() if condition else no()
    if _in_distributed_replica():
        raise ValueError(
            "TensorFlow cannot choose between steps within `strategy.run`. `fit` and `train_on_batch` choose outside; "
            "so does a loop with `first_step` and `second_step` in one `strategy.run` and `single_step` in another."
        )
    return tf.cond(condition, yes, no)


def _for_each_part(run: Callable[[Any, Any], Any], data: Any, splits: int) -> Any:
    """Run each part of the batch in turn, in the graph if the batch's size is only known there."""
    if _in_distributed_replica():
        raise ValueError(
            "`num_batch_splits` works on one device, not under a TensorFlow distribution strategy: leave it out there, "
            "and let several devices share one perturbation of the whole batch."
        )
    if parts.batch_size(data) is not None:
        for part_data, part in parts.split(data, splits):
            result = run(part_data, part)
        return result
    data = parts.checked(data)
    total = tf.shape(parts.first(data))[0]
    number = tf.minimum(splits, total)

    def run_part(index: int) -> Any:
        begin, end = parts.bounds(index, total, number)
        share = tf.cast(end - begin, "float32") / tf.cast(total, "float32")
        last = True if index == splits - 1 else tf.equal(index, number - 1)
        return run(parts.between(data, begin, end), parts.Part(share, last))

    result = run_part(0)
    for index in range(1, splits):
        result = tf.cond(index < number, lambda index=index: run_part(index), lambda result=result: result)
    return result


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _in_distributed_replica() -> bool:
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None
