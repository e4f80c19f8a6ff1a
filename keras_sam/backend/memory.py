"""A step where training changes the model in place, as on TensorFlow and PyTorch."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.backend import parts
from keras_sam.backend.running import Step, thread


class Snapshot:
    """The values of variables at one moment, to put back later."""

    def __init__(self, variables: Iterable[Any]) -> None:
        self.variables = list(variables)
        self.copies = [ops.copy(value) for value in backend.values(self.variables)]

    def put_back(self) -> None:
        """Give the variables the values they had."""
        backend.assign(self.variables, self.copies)


class Answer(BaseException):
    """Ends an asking run, and carries the gradients that it was made for.

    Not an `Exception`, for no handler in the user's step to stop it.
    """

    def __init__(self, step: Step, gradients: Sequence[Any]) -> None:
        super().__init__("the end of a run that a SAM optimizer asked for")
        self.step, self.gradients = step, gradients


class InPlaceStep(Step):
    """A step whose runs write to variables, so that what an asking run writes must be put back.

    What is written is known from two sides: the model's own variables that are not trained, as a layer may change
    them in its own way, are kept at the start; any other variable of Keras's is, when it is first assigned.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before: dict[int, tuple[Any, Any]] = {}  # variables that may have been written, and their values before
        self.assigned: dict[int, Any] = {}  # those that were, by Keras
        self.moved: set[int] = set()  # those that an optimizer has moved: they never begin again
        self.memories: list[Snapshot] = []  # what SAM optimizers remembered before they climbed
        self.skippable: tuple[Snapshot, Any] | None = None  # the weights and the loss scale, if a scaler may skip it
        self.may_pass_by = False  # whether only the running graph knows if it comes by `apply`
        self.updated = False  # whether an optimizer has made its step, after which nothing is undone
        self.loss: Any = None  # what the model's `compute_loss` returned last in the present run
        self.low: Any = None  # the same at the weights, when they were about to be updated
        self.replay = self.random_state()
        self.reading: Any = getattr(self.model, "_sharpness", None)

    def carry_out(self) -> Any:
        """Run the user's step, and return its logs."""
        outer, thread.step = thread.step, self
        try:
            self.begin()
            self.keep(self.untrained())
            fraction = self.optimizer.ascent_fraction if self.asks(self.optimizer) else 1.0
            logs = self.run(parts.beginning(self.data, fraction))
            self.check_reached()
            self.end()
        finally:
            thread.step = outer
        return logs if self.low is None else logs | {"sharpness": self.reading.metric.result()}

    def begin(self) -> None:
        """Climb, if that needs no gradient, or go where the first gradient is to be taken."""
        if not self.begins_perturbed:
            return
        if not self.optimizer.built:
            if not self.optimizer.draws_noise or not self.model.built:
                return
            self.optimizer.build(self.model.trainable_variables)  # as Keras does by now, but for TensorFlow
        self.keep_weights(self.optimizer)
        if self.optimizer.draws_noise:
            self.optimizer.noise_step()
        else:
            self.optimizer.first_step(None)

    def end(self) -> None:
        """Take a perturbation back that is there without the optimizer having been applied."""
        if self.may_pass_by:
            self.optimizer._descend()
        elif self.begins_perturbed:
            self.optimizer.restore()

    def undo(self) -> None:
        """Put everything back that was written, unless an optimizer has made its step by then."""
        if not self.updated and self.recoverable():
            for memory in reversed(self.memories):
                memory.put_back()
            self.write(self.before.values())
            self.replay()
        if self.begins_perturbed:
            if self.recoverable():
                self.optimizer.restore()
            self.optimizer.forget()

    def keep(self, variables: Iterable[Any]) -> None:
        """Remember the values of variables that may be written from here on."""
        new = [variable for variable in variables if id(variable) not in self.before]
        with self.outermost():
            self.before.update((id(v), (v, copy)) for v, copy in zip(new, Snapshot(new).copies, strict=True))

    def assigning(self, variable: Any) -> None:
        """Take note of an assignment that Keras is about to make; an optimizer's are its own business."""
        if self.applying is None:
            self.keep([variable])
            self.assigned[id(variable)] = variable

    def write(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Give variables their values."""
        variables, values = [], []
        for variable, value in pairs:
            variables.append(variable)
            values.append(value)
        backend.assign(variables, values)

    def note_loss(self, loss: Any) -> None:
        """Keep the loss, for the sharpness."""
        self.loss = ops.stop_gradient(loss)

    def keep_weights(self, optimizer: Any) -> None:
        """Remember the weights, bit for bit, if a loss scaler may skip the step."""
        if optimizer is self.optimizer and optimizer.loss_scaler is not None and self.skippable is None:
            with self.outermost():
                scale = ops.copy(optimizer.loss_scaler.dynamic_scale)
                self.skippable = Snapshot(self.model.trainable_variables), scale

    # In the clean run.

    def apply(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Make the step of a SAM optimizer, given the gradients at the weights."""
        self.check_options(optimizer)
        self.keep_weights(optimizer)
        nested = self.is_nested()
        self.low = None if nested or self.reading is None else self.loss
        if optimizer.draws_noise:
            self.take_the_noise_back(optimizer, variables)
        if self.asks(optimizer):
            self.climb_and_descend(optimizer, gradients, variables, nested)
        elif optimizer.ascent_needs_gradient:
            optimizer.base_optimizer.apply(optimizer.single_gradients(gradients, variables), variables)
        else:
            self.scale_perturbations(optimizer)
            optimizer.restore()
            self.descend(optimizer, gradients, variables)
        if nested and self.begins_perturbed and optimizer is self.optimizer:
            optimizer.clear_perturbations()  # for the end of the step to take nothing back once more
            self.may_pass_by = True

    def take_the_noise_back(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Restore the weights where the clean run was at a draw around them."""
        if optimizer._here.drawn:
            self.scale_perturbations(optimizer)
        else:  # the step has built the model, or makes a second update
            optimizer.noise_step(variables)
        optimizer._descend()

    def scale_perturbations(self, optimizer: Any) -> None:
        """Let a perturbation that was there in the clean run be what is to be taken back.

        A layer that has written its weights there, as spectral normalization does, has scaled the perturbation too.
        """
        for variable, slot in zip(optimizer._trainable_variables, optimizer.perturbations, strict=True):
            if slot is not None and id(variable) in self.before:
                (old,) = backend.cast([self.before[id(variable)][1]], slot.dtype)
                w, e = backend.values([variable, slot])
                w, e = backend.cast([w, e], slot.dtype)
                length = ops.norm(old)
                scale = ops.where(length > 0, ops.norm(w) / length, 1.0)
                backend.assign([slot], [scale * e])

    def climb_and_descend(self, optimizer: Any, gradients: Any, variables: Any, nested: bool) -> None:
        """Perturb the weights, ask for the gradients there, come back, and hand them on if there are any."""
        memory = Snapshot(optimizer.memory)
        self.memories.append(memory)
        its_own = {id(v) for v in optimizer.variables}  # which the model may hold too
        written = [variable for key, (variable, _) in self.before.items() if key not in its_own]
        kept = len(self.before)
        now = Snapshot([*written, *self.model.trainable_variables] if nested else written)
        draw_on = self.random_state()

        def come_back() -> None:
            self.write([self.before.pop(key) for key in list(self.before)[kept:]])  # by the asking run only
            optimizer.restore()
            now.put_back()
            draw_on()

        try:
            optimizer.first_step(gradients, variables)
            self.release(gradients)
            found, reached, high = self.ask(optimizer)
        except BaseException:
            if self.recoverable():
                come_back()
                memory.put_back()
            optimizer.forget()
            raise
        come_back()
        if optimizer is self.optimizer and self.low is not None and high is not None:
            self.reading.add(self.low, high, ops.shape(parts.first(self.data))[0])

        self.choose(reached, lambda: self.descend(optimizer, found, variables), memory.put_back)

    def descend(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Let the base optimizer make its step, for a batch in parts with the last of them."""
        if self.part is None or optimizer is not self.optimizer:
            optimizer.base_optimizer.apply(optimizer.descent_gradients(gradients, variables), variables)
            return
        optimizer.add_to_mean(gradients, variables, self.part.share)

        def apply_mean() -> None:
            means = optimizer.mean_gradients(gradients, variables)
            optimizer.base_optimizer.apply(means, optimizer._trainable_variables)

        self.choose(self.part.last, apply_mean, lambda: None)

    def applied(self, turn: Any, optimizer: Any, arguments: Any, result: Any) -> None:
        """Note what an optimizer has moved."""
        variables = arguments[1] if len(arguments) > 1 and arguments[1] is not None else optimizer._trainable_variables
        self.moved.update(map(id, variables))
        self.updated = self.part is None or self.part.last is not False or optimizer is not self.optimizer

    def check_reached(self) -> None:
        """Refuse a step that trains past the model's SAM optimizer."""
        if self.reached or not self.is_sam or not self.model.trainable_variables:
            return
        if self.traced():
            raise self.unreached()
        if self.optimizer.has_stepped:  # it skips a batch
            return
        trained = {id(v) for v in self.model.trainable_variables}
        passing = trained | {id(v) for v in self.model.metrics_variables}
        adds_up = any(key not in passing and _has_changed(*pair) for key, pair in self.before.items())
        if trained <= self.moved | self.assigned.keys() or not (adds_up or self.moved):
            raise self.unreached()

    # The asking run.

    def ask(self, optimizer: Any) -> tuple[Any, Any, Any]:
        """The gradients at the weights as they are now, whether there are any, and the loss there."""
        turn = id(optimizer), self.calls[id(optimizer)] - 1
        mine = self.moved | {id(v) for v in (*optimizer._trainable_variables, *optimizer.variables)}
        self.write(pair for key, pair in self.before.items() if key not in mine)
        self.replay()
        clean = self.calls, self.loss
        self.calls, self.loss, self.asked, self.applying = {}, None, turn, None
        try:
            with self.asking():
                self.run(self.data)
            return *self.posted(optimizer), None
        except Answer as answer:
            if answer.step is not self:
                raise
            return answer.gradients, True, self.loss
        finally:
            self.calls, self.loss = clean
            self.asked, self.applying = None, optimizer

    def answer(self, optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> None:
        """End the run."""
        raise Answer(self, gradients)

    def stand_still(self, turn: Any, gradients: Sequence[Any], variables: Any = None) -> None:
        """Leave the variables as they are: as the clean run has left them."""

    # What TensorFlow or PyTorch do in their own way.

    def untrained(self) -> list[Any]:
        """The model's own variables that are not trained; not frozen weights, which a run only reads."""
        frozen = {id(v) for layer in self.model._flatten_layers() for v in layer._trainable_variables}
        return [v for v in self.model.non_trainable_variables if id(v) not in frozen]

    def outermost(self) -> contextlib.AbstractContextManager[None]:
        """In what is done there the whole step can use."""
        return contextlib.nullcontext()

    def is_nested(self) -> bool:
        """Whether this stands in a branch of a graph, which the running graph may pass by."""
        return False

    def traced(self) -> bool:
        """Whether this is done once for many steps."""
        return False

    def recoverable(self) -> bool:
        """Whether a step that fails can be undone."""
        return True

    def random_state(self) -> Callable[[], None]:
        """What brings random numbers back to where they are now, those of Keras's variables aside."""
        return lambda: None

    def release(self, gradients: Any) -> None:
        """Free the memory of the gradients of the clean run, if nobody will look at them."""

    def asking(self) -> contextlib.AbstractContextManager[None]:
        """What an asking run needs around it."""
        return contextlib.nullcontext()

    def posted(self, optimizer: Any) -> tuple[Any, Any]:
        """The gradients of a run that did not end at its `apply`, and whether there are any."""
        return None, False

    def choose(self, condition: Any, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Do one thing or the other."""
        (yes if condition else no)()


def watch_assignments() -> None:
    """Let the running step know when Keras is about to assign a variable."""
    assign = keras.Variable._direct_assign
    if hasattr(assign, "watched"):
        return

    @functools.wraps(assign)
    def watched(variable: Any, value: Any) -> None:
        if thread.step is not None:
            thread.step.assigning(variable)
        assign(variable, value)

    watched.watched = True  # type: ignore[attr-defined]
    keras.Variable._direct_assign = watched


def sam_step(
    model: Any,
    run: Callable[[Any], Any],
    data: Any,
    new_step: Callable[..., InPlaceStep],
    for_each_part: Callable[..., Any],
    choose: Callable[..., Any],
) -> Any:
    """Make a step of `model`: as many runs of the user's step as it takes.

    Args:
        model: The model, with a SAM optimizer.
        run: The user's step, a function of the batch.
        data: The batch.
        new_step: The backend's kind of step.
        for_each_part: `for_each_part(run, data, splits)` calls `run(data, part)` for each part of the batch in turn,
            and returns the last result.
        choose: `choose(condition, yes, no)` calls one of two functions and returns its result.
    """
    optimizer, steps = model.optimizer, []

    def one(data: Any, **options: Any) -> Any:
        steps.append(new_step(model, run, data, **options))
        return steps[-1].carry_out()

    def climb() -> Any:
        if getattr(optimizer, "num_batch_splits", None) is None:
            return one(data)
        if optimizer.built:
            optimizer.begin_mean()
        return for_each_part(lambda data, part: one(data, part=part), data, optimizer.num_batch_splits)

    try:
        climbs = getattr(model, "_climbs", None)  # chosen already, outside of what is compiled
        if climbs is None:
            climbs = optimizer.is_ascent_step() if hasattr(optimizer, "is_ascent_step") else True
        logs = choose(climbs, climb, lambda: one(data, climbs=False))
    except BaseException:
        for step in reversed(steps):
            step.undo()
        raise
    if getattr(optimizer, "loss_scaler", None) is not None:
        _undo_if_skipped(optimizer, steps)
    return logs


def _undo_if_skipped(optimizer: Any, steps: Sequence[InPlaceStep]) -> None:
    """Put weights and statistics back, bit for bit, if the loss scaler skipped the step.

    It skips a step that overflows, and halves the loss scale. The overflow may be in the asking run
    only, after the statistics have moved, or may have gone into them.
    """
    kept = next((step.skippable for step in steps if step.skippable is not None), None)
    if kept is None:
        return
    weights, scale = kept
    before: dict[int, tuple[Any, Any]] = {}
    for step in reversed(steps):
        before.update(step.before)
    others = {id(v) for v in (*weights.variables, *steps[0].model.metrics_variables)}
    statistics = [(v, value) for v, value in before.values() if _is_float(v) and id(v) not in others]
    variables = [*weights.variables, *(v for v, _ in statistics)]
    old = [*weights.copies, *(value for _, value in statistics)]
    skipped = ops.less(optimizer.loss_scaler.dynamic_scale, scale)
    backend.assign(variables, backend.select(skipped, old, backend.values(variables)))


def _is_float(variable: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(variable.dtype)


def _has_changed(variable: Any, old: Any) -> bool:
    """Whether a variable, but for a counter of random draws, has another value now."""
    draws = "seed_generator" in getattr(variable, "path", "")
    return not draws and bool(ops.any(ops.not_equal(backend.values([variable])[0], old)))
