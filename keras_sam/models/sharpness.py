"""The sharpness that training sees anyway: how much the loss rises from the weights to the perturbed weights."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class SharpnessReading:
    """The mean over an epoch of the loss at the perturbed weights less the loss at the weights, weighted by samples.

    Both are computed anyway. On JAX they are read off the model's own loss trackers, by what each run adds to them.
    """

    def __init__(self) -> None:
        self.metric = keras.metrics.Mean(name="sharpness")

    def watched(self, model: Any) -> list[Any]:
        """The totals and the counts of what `model` reports as its loss, alternating; empty if it reports none."""
        trackers = [m for m in model.metrics if m.name == "loss" and isinstance(m, keras.metrics.Mean)]
        return [variable for tracker in trackers for variable in (tracker.total, tracker.count)]

    def record(self, start: Sequence[Any], first: Sequence[Any], restart: Sequence[Any], second: Sequence[Any]) -> None:
        """Take in one step.

        Args:
            start: The values of `watched` variables before the clean run.
            first: Those after it.
            restart: Those before the asking run.
            second: Those after it.
        """
        (low, low_samples), (high, samples) = _gain(start, first), _gain(restart, second)
        seen = ops.logical_and(samples > 0, low_samples > 0)
        low, high = low / ops.maximum(low_samples, 1.0), high / ops.maximum(samples, 1.0)
        self.add(low, high, ops.where(seen, samples, 0.0))

    def add(self, low: Any, high: Any, samples: Any) -> None:
        """Take in one step: the loss at the weights, that at the perturbed weights, and how many samples it had."""
        rise = ops.cast(high, "float32") - ops.cast(low, "float32")
        finite = ops.isfinite(rise)
        samples = ops.cast(samples, "float32")
        self.metric.update_state(ops.where(finite, rise, 0.0), sample_weight=ops.where(finite, samples, 0.0))


def _gain(before: Sequence[Any], after: Sequence[Any]) -> tuple[Any, Any]:
    """What was added to the totals and to the counts."""
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return sum(gains[::2], start=0.0), sum(gains[1::2], start=0.0)
