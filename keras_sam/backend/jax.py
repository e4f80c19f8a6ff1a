"""JAX: the training step is a pure function of the model's state."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse
from keras import ops

from keras_sam.backend.fused import cast, displace, global_norm, replace, select, weighted_sum
from keras_sam.backend.parts import beginning, split
from keras_sam.backend.running import Step, thread, watch

__all__ = ["cast", "displace", "global_norm", "replace", "select", "weighted_sum"]


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """Dense gradients; the compiler sums those of a sharded batch."""
    return [g.todense() if isinstance(g, JAXSparse) else g for g in gradients]


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


def sam_step(model: Any, run: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """Make a step of `model`, of which `run` is the user's own."""
    watch("stateless_apply")
    optimizer = model.optimizer

    def climb_and_descend(state: Any, data: Any) -> tuple[Any, Any]:
        if getattr(optimizer, "num_batch_splits", None) is None:
            result = _PureStep(model, run, data, state).carry_out()
        else:
            result = _parts(model, run, state, data)
        return _undo_if_skipped(optimizer, state, result)

    def single_pass(state: Any, data: Any) -> tuple[Any, Any]:
        return _undo_if_skipped(optimizer, state, _PureStep(model, run, data, state, climbs=False).carry_out())

    try:
        if not getattr(optimizer, "steps_differ", False):
            climbs = not hasattr(optimizer, "is_ascent_step") or optimizer.is_ascent_step()
            return (climb_and_descend if climbs else single_pass)(state, data)
        traced = isinstance(jax.tree.leaves(state)[0], jax.core.Tracer)
        compiled = getattr(model, "_compiled_steps", None)
        if compiled is not None and not traced:
            result: tuple[Any, Any] = compiled.take(climb_and_descend, single_pass, state, data)
            return result
        climbs = optimizer.stateless_is_ascent_step(state[2])
        if traced:
            result = jax.lax.cond(climbs, climb_and_descend, single_pass, state, data)
            return result
        return (climb_and_descend if climbs else single_pass)(state, data)
    except BaseException:
        _keep(model, state)
        raise


def make_train_function(model: Any, make: Callable[[], Any], force: bool) -> None:
    """Let Keras make the function that trains; where steps differ, one that chooses outside the compiled code.

    XLA runs convolutions inside a condition many times slower on a CPU.
    """
    before = getattr(model, "train_function", None)
    if not getattr(model.optimizer, "steps_differ", False) or not model.jit_compile or model.run_eagerly:
        make()
    else:
        if before is None or force:
            vars(model)["_compiled_steps"] = _CompiledSteps(model)
        model.jit_compile = False
        try:
            make()
        finally:
            model.jit_compile = True
    if model.train_function is not before:
        model.train_function = _recoverable(model, model.train_function)


def _recoverable(model: Any, train: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after which a model has its state again if a step could not be traced."""

    def recoverable(state: Any, iterator: Any) -> Any:
        try:
            return train(state, iterator)
        except BaseException:
            _keep(model, state)
            raise

    return recoverable


class _CompiledSteps:
    """A step that climbs and one that does not, both compiled, of which a count on the host chooses.

    To read the count from what the last step returned would wait for the device. It is read once, from a state that
    no step here has returned (at first, or after a file was loaded), and where a step may skip its update.
    """

    def __init__(self, model: Any) -> None:
        self.optimizer = model.optimizer
        # As Keras itself: for the weights to stay where they are.
        distributed = keras.distribution.distribution() is not None
        self.shardings = (None, model._get_state_sharding_spec()) if distributed else None
        self.steps: dict[bool, Any] = {}
        self.counted: dict[bool, int | None] = {}  # how far each of them counts, if that is known
        self.ahead: tuple[int, Any, Any] = (0, (), None)  # from an iteration on, which climb in this training
        self.returned: Any = None  # the count as the last step has returned it
        self.count = 0  # and its value

    def climbs_at(self, iteration: int) -> bool:
        """Whether a step climbs, computed on the host for many at a time."""
        first, climbs, training = self.ahead
        if not first <= iteration < first + len(climbs) or training != self.optimizer._training:
            first, training = iteration, self.optimizer._training
            with jax.default_device(jax.local_devices(backend="cpu")[0]):
                climbs_at = jax.vmap(lambda iteration: self.optimizer.climbs_at(iteration, training))
                climbs = np.asarray(climbs_at(jax.numpy.arange(first, first + 1024)))
            self.ahead = first, climbs, training
        return bool(climbs[iteration - first])

    def take(self, climb: Callable[..., Any], single: Callable[..., Any], state: Any, data: Any) -> Any:
        """Make the step whose turn it is."""
        place = _place_of_count(self.optimizer)
        count = self.count if state[2][place] is self.returned else int(state[2][place])
        climbs = self.climbs_at(count // (self.optimizer.gradient_accumulation_steps or 1))
        if climbs not in self.steps:
            step = climb if climbs else single
            self.steps[climbs] = jax.jit(step, donate_argnums=0, out_shardings=self.shardings)
        logs, state = self.steps[climbs](state, data)
        counted = self.counted[climbs]
        self.returned, self.count = (None, 0) if counted is None else (state[2][place], count + counted)
        return logs, state


def _parts(model: Any, run: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
    """The user's step on each part of the batch, with one step of the base optimizer in the last."""
    optimizer_variables = model.optimizer.stateless_begin_mean(state[2])
    state = (*state[:2], optimizer_variables, state[3])
    for part_data, part in split(data, model.optimizer.num_batch_splits):
        logs, state = _PureStep(model, run, part_data, state, part=part).carry_out()
    return logs, state


class _PureStep(Step):
    """A step whose runs are functions of the model's state, so that of an asking run no more remains than is taken.

    An asking run goes on to its end. Where `stateless_apply` stands in a `lax.cond`, its gradients leave through the
    state that the run returns, in the slots of the perturbation, and the count of iterations tells whether they do.
    """

    def __init__(self, model: Any, run: Any, data: Any, state: Any, **options: Any) -> None:
        super().__init__(model, run, data, **options)
        self.reading: Any = getattr(model, "_sharpness", None)
        own = len(self.reading.metric.variables) if self.reading else 0  # at the end, where the user's step sees none
        metrics = list(state[3])
        self.state, self.own_metrics = (*state[:3], metrics[: len(metrics) - own]), metrics[len(metrics) - own :]
        self.place = _trace()
        self.results: dict[tuple[int, int], tuple[Any, Any]] = {}  # of the optimizers in the clean run, and where
        self.perturbed: tuple[tuple[int, int], Any] | None = None  # weights in the place of those of such a result
        self.asked_in: Any = None
        self.found: Any = None  # the gradients of an asking run, if they are not in a branch
        self.present: Any = None  # which gradients there are, if they are
        self.dtypes: list[Any] = []
        self.metrics: Any = None  # after an asking run
        self.restores = False

    def carry_out(self) -> tuple[Any, Any]:
        """Run the user's step, and return its logs and the new state."""
        outer, thread.step = thread.step, self
        optimizer, state, data = self.optimizer, self.state, self.data
        try:
            if self.asks(optimizer):
                data = beginning(data, optimizer.ascent_fraction)
            if self.begins_perturbed and optimizer.draws_noise:
                state = self.with_result(state, *optimizer.stateless_noise_step(state[2], self.weights_in(state)))
            elif self.begins_perturbed:
                state = self.with_result(state, *optimizer.stateless_first_step(state[2], None, self.weights_in(state)))
            logs, state = self.run(state, data)
            if not self.reached and self.is_sam:
                if not optimizer.has_stepped or isinstance(jax.tree.leaves(self.state)[0], jax.core.Tracer):
                    raise self.unreached()
                self.restores = self.begins_perturbed
            if self.restores:
                state = self.with_result(state, *optimizer.stateless_restore(state[2], self.weights_in(state)))
        finally:
            thread.step = outer
        if getattr(self.model, "_compiled_steps", None) is not None:
            self.model._compiled_steps.counted[self.climbs] = self.counted()
        logs, own_metrics = self.with_sharpness(logs, state[3])
        return logs, (*state[:3], [*state[3], *own_metrics])

    def counted(self) -> int | None:
        """How far the optimizer has counted in this step; `None` if that depends on what is computed."""
        places = [place for (key, _), (_, place) in self.results.items() if key == id(self.optimizer)]
        sure = self.optimizer.loss_scaler is None and all(place == self.place for place in places)
        return len(places) if sure else None

    def with_sharpness(self, logs: Any, metrics: Any) -> tuple[Any, list[Any]]:
        """The logs, and the variables of the sharpness, with what the two runs tell of it."""
        start, end = self.state[3], self.metrics
        if self.reading is None or (self.asks(self.optimizer) and end is None):  # those of a branch cannot be used
            return logs, self.own_metrics
        variables = list(self.model.metrics_variables)
        watched = [next(i for i, v in enumerate(variables) if v is w) for w in self.reading.watched(self.model)]
        if all(start[i] is metrics[i] for i in watched):  # a step that reports its loss in some other way, if at all
            return logs, self.own_metrics
        second = (metrics, metrics) if end is None else (start, end)  # nothing new without an asking run
        with keras.StatelessScope(
            state_mapping=zip(self.reading.metric.variables, self.own_metrics, strict=True)
        ) as scope:
            self.reading.record(*([values[i] for i in watched] for values in (start, metrics, *second)))
            logs = logs | {"sharpness": self.reading.metric.result()}
        return logs, [scope.get_current_value(v) for v in self.reading.metric.variables]

    # The model's state, and the weights in it that are an optimizer's.

    def places(self, optimizer: Any) -> list[int]:
        """Where the variables of an optimizer stand among the weights of the model's state."""
        places = {id(v): i for i, v in enumerate(self.model.trainable_variables)}
        for variable in optimizer._trainable_variables:
            if id(variable) not in places:
                raise ValueError(
                    f"{type(optimizer).__name__} updates {variable.path!r}, which is not among the model's trainable "
                    "variables, so that the training step cannot be run with other values of it. Make its layer one of "
                    "the model's, or write the loop with `stateless_first_step` and `stateless_second_step`."
                )
        return [places[id(v)] for v in optimizer._trainable_variables]

    def weights_in(self, state: Any) -> list[Any]:
        """The weights of the model's optimizer."""
        return [state[0][place] for place in self.places(self.optimizer)]

    def with_weights(self, optimizer: Any, state: Any, weights: Any) -> Any:
        """The state, with other weights of an optimizer."""
        found = list(state[0])
        for place, value in zip(self.places(optimizer), weights, strict=True):
            found[place] = value
        return found, *state[1:]

    def with_result(self, state: Any, weights: Any, optimizer_variables: Any) -> Any:
        """The state, with what a step of the model's optimizer has returned."""
        found, others, _, metrics = self.with_weights(self.optimizer, state, weights)
        return found, others, optimizer_variables, metrics

    # In the clean run.

    def apply(self, optimizer: Any, state: Any, gradients: Any, weights: Any) -> tuple[Any, Any]:
        """The weights and the state of a SAM optimizer after its step, given the gradients at the weights."""
        self.check_options(optimizer)
        nested = _trace() != self.place  # where the step may not come by, and the end of it takes what is added back
        self.restores = self.restores or (nested and self.begins_perturbed)
        if optimizer.draws_noise:
            weights, state = optimizer.stateless_restore(state, weights)
        if self.asks(optimizer):
            perturbed, new_state = optimizer.stateless_first_step(state, gradients, weights)
            found, reached = self.ask(optimizer, perturbed)
            if found is None:
                return weights, state
            result = self.descend(optimizer, new_state, found, perturbed)
            return result if reached is True else _either(reached, result, (list(weights), list(state)))
        if optimizer.ascent_needs_gradient:
            single: tuple[Any, Any] = optimizer.stateless_single_step(state, gradients, weights)
            return single
        weights, state = self.descend(optimizer, state, gradients, weights)
        if nested:
            cleared = {id(slot) for slot in optimizer.perturbations}
            pairs = zip(optimizer.variables, state, strict=True)
            state = [ops.zeros_like(value) if id(v) in cleared else value for v, value in pairs]
        return weights, state

    def descend(self, optimizer: Any, state: Any, gradients: Any, weights: Any) -> tuple[Any, Any]:
        """The second half of a step, for a batch in parts with the base optimizer's step in the last of them."""
        if self.part is None or optimizer is not self.optimizer:
            result: tuple[Any, Any] = optimizer.stateless_second_step(state, gradients, weights)
            return result
        weights, state = optimizer.stateless_add_to_mean(state, gradients, weights, self.part.share)
        return optimizer.stateless_apply_mean(state, gradients, weights) if self.part.last else (weights, state)

    def applied(self, turn: tuple[int, int], optimizer: Any, arguments: Any, result: Any) -> None:
        """Keep what an asking run will take for the optimizer's result."""
        self.results[turn] = result, _trace()

    # The asking run.

    def ask(self, optimizer: Any, perturbed: Any) -> tuple[Any, Any]:
        """The gradients at the perturbed weights, and whether there are any."""
        self.asked_in = _trace()
        _refuse_in_a_loop(self)
        turn = id(optimizer), self.calls[id(optimizer)] - 1
        state = self.state
        if turn[1] == 0:
            state = self.with_weights(optimizer, state, perturbed)
        else:
            self.perturbed = (turn[0], turn[1] - 1), perturbed
        clean = self.calls
        self.calls, self.asked, self.applying = {}, turn, None
        self.found = self.present = None
        try:
            _, after = self.run(state, self.data)
        finally:
            self.calls, self.asked, self.applying, self.perturbed = clean, None, optimizer, None
        if optimizer is self.optimizer and self.asked_in == self.place:
            self.metrics = after[3]
        if self.found is not None or self.present is None:
            return self.found, self.found is not None
        return self.posted(optimizer, after)

    def answer(self, optimizer: Any, state: Any, gradients: Any, weights: Any) -> tuple[Any, Any]:
        """Hand over the gradients; what the run makes of the rest is dropped."""
        if _trace() == self.asked_in:
            self.found = list(gradients)
            return weights, state
        self.present = [g is not None for g in gradients]
        self.dtypes = [None if g is None else g.dtype for g in gradients]
        new_weights, new_state = list(weights), list(state)
        places = {id(v): i for i, v in enumerate(optimizer.variables)}
        for i, (slot, gradient) in enumerate(zip(optimizer.perturbations, gradients, strict=True)):
            if gradient is None:
                continue
            if slot is None:
                new_weights[i] = ops.cast(gradient, weights[i].dtype)
            else:
                new_state[places[id(slot)]] = ops.cast(gradient, slot.dtype)
        new_state[_place_of_count(optimizer)] += 1
        return new_weights, new_state

    def posted(self, optimizer: Any, after: Any) -> tuple[Any, Any]:
        """The gradients that left a branch through the state after the run, and whether they did."""
        if optimizer is not self.optimizer:
            raise RuntimeError(
                f"{type(optimizer).__name__} was applied inside `lax.cond` in the training step, which only the "
                "optimizer that the model was compiled with can be. Apply it outside, and choose between the old and "
                "the new values, or write the loop with `stateless_first_step` and `stateless_second_step`."
            )
        weights, state = self.weights_in(after), after[2]
        places = {id(v): i for i, v in enumerate(optimizer.variables)}
        found = [
            None if not there else ops.cast(weight if slot is None else state[places[id(slot)]], dtype)
            for there, dtype, slot, weight in zip(
                self.present, self.dtypes, optimizer.perturbations, weights, strict=True
            )
        ]
        count = _place_of_count(optimizer)
        return found, state[count] != self.state[2][count]

    def stand_still(self, turn: tuple[int, int], state: Any, gradients: Any, weights: Any) -> tuple[Any, Any]:
        """What the optimizer made in the clean run; nothing, if it comes later there."""
        if turn not in self.results:
            return weights, state
        (new_weights, new_state), place = self.results[turn]
        if place != self.place:
            raise RuntimeError(
                "An optimizer was applied inside `lax.cond` in the training step, before a SAM optimizer that asks for "
                "its second gradient and cannot see what came of it. Apply the SAM optimizer first, or write the loop "
                "with `stateless_first_step` and `stateless_second_step`."
            )
        if self.perturbed is not None and turn == self.perturbed[0]:
            new_weights = self.perturbed[1]
        return new_weights, new_state


def _place_of_count(optimizer: Any) -> int:
    """Where among an optimizer's variables the count of its calls stands, of which `iterations` may be a part."""
    (place,) = [i for i, v in enumerate(optimizer.variables) if v is optimizer.inner_optimizer._iterations]
    return place


def _trace() -> Any:
    """What is being traced, if anything is: a result of it can be used where this is the same."""
    source = jax.extend.core if hasattr(jax.extend.core, "get_opaque_trace_state") else jax.core
    return source.get_opaque_trace_state(convention="flax")


def _refuse_in_a_loop(step: _PureStep) -> None:
    """In a loop of JAX's the asking run would ask in every turn of it."""
    if step.asked_in == step.place:
        return
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code is _PureStep.carry_out.__code__:
            return
        if frame.f_globals.get("__name__", "").endswith("control_flow.loops"):
            raise RuntimeError(
                "A SAM optimizer was applied inside `lax.scan`, `lax.while_loop` or `lax.fori_loop` in the training "
                "step, where it cannot ask for the gradient at the perturbed weights. A loop in Python is as good "
                "there; or write the loop with `stateless_first_step` and `stateless_second_step`."
            )


def _either(condition: Any, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: ops.where(condition, a, b), yes, no)


def _undo_if_skipped(optimizer: Any, before: Any, result: tuple[Any, Any]) -> tuple[Any, Any]:
    """The logs and the state after a step, with weights and statistics from before it if the loss scaler skipped it.

    It skips a step that overflows, and halves the loss scale. The overflow may be in the second pass
    only, after the statistics have moved, or may have gone into them.
    """
    if getattr(optimizer, "loss_scaler", None) is None:
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

    Unless a compiled step has failed while it ran, to which the state was donated; where it is traced it is a tracer.
    """
    emptied = any(v._value is None for v in model.trainable_variables)
    lost = any(
        isinstance(leaf, jax.core.Tracer) or getattr(leaf, "is_deleted", bool)() for leaf in jax.tree.leaves(state)
    )
    if emptied and not lost:
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
