"""The passes of a step where training changes the model in place, as on TensorFlow and PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.backend.parts import beginning


class Snapshot:
    """The values of variables at one moment, to put back later."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = list(variables)
        self.copies = [ops.copy(value) for value in backend.values(self.variables)]

    def put_back(self) -> None:
        """Give the variables the values they had."""
        for variable, copy in zip(self.variables, self.copies, strict=True):
            variable.assign(copy)


def sam_step(
    model: Any,
    step: Callable[[Any], Any],
    data: Any,
    buffers: Sequence[Any],
    snapshot: type[Snapshot],
    for_each_part: Callable[..., Any],
    choose: Callable[..., Any],
    recoverable: bool,
) -> Any:
    """Run the passes of one step of a SAM optimizer, as many as it takes.

    Statistics and metrics end where the first pass left them. If a pass fails, everything goes back to the start.

    Args:
        model: The model, with a SAM optimizer.
        step: The training step to run in each pass.
        data: The batch.
        buffers: What a pass may write that is no variable of Keras's, with a `value` and a `dtype`.
        snapshot: The backend's kind of snapshot, which may hold its random state too.
        for_each_part: `for_each_part(run, data, splits)` calls `run(part, index, share)` for each part of the
            batch, in turn, and returns the last result.
        choose: `choose(condition, yes, no)` calls one of two functions and returns its result.
        recoverable: Whether variables can be put back if a pass fails: not while a graph is traced.
    """
    optimizer = model.optimizer
    variables = [*changing_variables(model), *buffers]
    start = snapshot(variables)
    reading: Any = getattr(model, "_sharpness", None)
    watched = reading.watched(model) if reading else []

    def two_passes(data: Any, start: Snapshot, descent: str) -> Any:
        losses = [Snapshot(watched).copies]
        optimizer.phase = "ascent"
        logs = step(beginning(data, optimizer.ascent_fraction))
        after_first_pass = snapshot(variables)
        losses.append(Snapshot(watched).copies)
        start.put_back()  # statistics and random state, so that the second pass draws the same random numbers
        optimizer.phase = descent
        step(data)
        losses.append(Snapshot(watched).copies)
        after_first_pass.put_back()
        if watched:
            at_start, first, second = losses
            reading.record(at_start, first, at_start, second)
        return logs

    def climb_and_descend() -> Any:
        if not optimizer.ascent_needs_gradient:
            optimizer.first_step(None, model.trainable_variables)
            optimizer.phase = "descent"
            return step(data)
        if optimizer.num_batch_splits is None:
            return two_passes(data, start, "descent")

        def run(part: Any, index: int, share: Any) -> Any:
            optimizer.part = index, share
            return two_passes(part, snapshot(variables), "collect")

        logs = for_each_part(run, data, optimizer.num_batch_splits)
        optimizer.apply_collected()
        return logs

    def single_pass() -> Any:
        optimizer.phase = "single"
        return step(data)

    undo_if_skipped = _guard(model, variables) if optimizer.loss_scaler is not None else None
    try:
        if optimizer.interval == 1:
            logs = climb_and_descend()
        else:
            logs = choose(optimizer.is_ascent_step(), climb_and_descend, single_pass)
    except BaseException:
        if recoverable:
            optimizer.restore()
            start.put_back()
        raise
    finally:
        optimizer.phase = None
    if undo_if_skipped is not None:
        undo_if_skipped()
    return logs | {"sharpness": reading.metric.result()} if watched else logs


def _guard(model: Any, variables: Sequence[Any]) -> Callable[[], None]:
    """Remember weights and statistics; the result puts them back, bit for bit, if the loss scaler skipped the step.

    It skips a step that overflows, and halves the loss scale. The overflow may be in the second pass
    only, after the statistics have moved, or may have gone into them.
    """
    scaler, metrics = model.optimizer.loss_scaler, {id(v) for v in model.metrics_variables}
    statistics = [v for v in variables if "float" in v.dtype and id(v) not in metrics]
    before = Snapshot([*model.trainable_variables, *statistics])
    scale = ops.copy(scaler.dynamic_scale)

    def undo_if_skipped() -> None:
        skipped = ops.less(scaler.dynamic_scale, scale)
        now = backend.values(before.variables)
        backend.assign(before.variables, backend.select(skipped, before.copies, now))

    return undo_if_skipped


def changing_variables(model: keras.Model) -> list[Any]:
    """What a pass may write: batch-norm statistics, seeds, metrics; not frozen weights, which it only reads."""
    layers = model._flatten_layers()
    frozen = {id(v) for layer in layers for v in layer._trainable_variables}
    # Stateful layers hold their states themselves; Keras lists these nowhere.
    recurrent = [layer for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]
    states = [v for layer in recurrent for v in keras.tree.flatten(layer.states or [])]
    return [*(v for v in model.non_trainable_variables if id(v) not in frozen), *states, *model.metrics_variables]
