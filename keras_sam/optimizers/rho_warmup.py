"""A radius that rises from 0, and may begin late or end early."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_sam.optimizers import arguments


@keras.saving.register_keras_serializable(package="keras_sam")
class RhoWarmup(keras.optimizers.schedules.LearningRateSchedule):
    r"""A `rho` that rises from 0 to its value and stays there; any SAM optimizer takes it.

        rho(step) = rho * min(1, (step - begin) / warmup)    begin <= step < end
                  = 0                                        before and after

    Too large a radius keeps a network from learning anything when it begins with it, and much less so when it is led up
    to it. A step whose radius is 0 costs one gradient pass, as it is the base optimizer's.

    Each of the three may be a number of steps, an integer, or a share of the training, a float from 0.0 to 1.0. With a
    share among them, `fit` of a `SAMModel` says where the training begins, from which all are counted, and how long it
    is, from its epochs and its steps in an epoch. Without, they are counted from the optimizer's first step.

    Args:
        rho: The radius to reach: a float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule`, such as a
            `RhoSchedule`, that is read at the same step.
        warmup: In what time it rises, from `begin` on.
        begin: When steps begin to climb.
        end: When they do no longer; `None` for never.

    Raises:
        ValueError: if an argument is out of its range, or the schedule is asked for a radius and has shares.

    Examples:
        >>> import keras_sam
        >>> rho = keras_sam.RhoWarmup(0.5, warmup=100, begin=50, end=400)
        >>> [float(rho(step)) for step in (0, 50, 100, 150, 399, 400)]
        [0.0, 0.0, 0.25, 0.5, 0.5, 0.0]
        >>> optimizer = keras_sam.SAMOptimizer("adam", rho=keras_sam.RhoWarmup(0.5, warmup=0.25))  # over a quarter
    """

    def __init__(
        self, rho: Any, warmup: int | float = 0, begin: int | float = 0, end: int | float | None = None
    ) -> None:
        self.rho = arguments.radius(rho)
        if getattr(self.rho, "has_shares", False):
            raise ValueError(f"`rho` must be a schedule of steps, not of shares of the training. Received: rho={rho!r}")
        self.warmup = arguments.time("warmup", warmup)
        self.begin = arguments.time("begin", begin)
        self.end = None if end is None else arguments.time("end", end)
        if self.end is not None and type(self.end) is type(self.begin) and self.end <= self.begin:
            raise ValueError(f"`end` must come after begin={begin}, or be None. Received: end={end!r}")

    @property
    def has_shares(self) -> bool:
        """Whether it has to know how long the training is."""
        return any(isinstance(time, float) for time in (self.warmup, self.begin, self.end))

    def __call__(self, step: Any) -> Any:
        """The radius at `step`."""
        if self.has_shares:
            raise ValueError(
                "A RhoWarmup with shares of the training cannot tell the radius at a step, as it does not know how "
                "long the training is: train with `fit` of a `SAMModel`, or give steps, as integers. Received: "
                f"warmup={self.warmup!r}, begin={self.begin!r}, end={self.end!r}"
            )
        return self.within(step, (0.0, 0.0))

    def within(self, step: Any, training: Sequence[Any]) -> Any:
        """The radius at `step` of a training, which is given by its first step and its number of steps."""
        step = ops.cast(step, "float32")

        def span(time: int | float) -> Any:
            return time * training[1] if isinstance(time, float) else time

        def moment(time: int | float) -> Any:
            return training[0] + span(time)

        is_schedule = isinstance(self.rho, keras.optimizers.schedules.LearningRateSchedule)
        rho = ops.cast(self.rho(step) if is_schedule else self.rho, "float32")
        since = step - moment(self.begin)
        risen = ops.clip(since / span(self.warmup), 0.0, 1.0) if self.warmup else 1.0
        climbs = since >= 0 if self.end is None else ops.logical_and(since >= 0, step < moment(self.end))
        return ops.where(climbs, rho * risen, 0.0)

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"RhoWarmup({self.rho!r}, warmup={self.warmup!r}, begin={self.begin!r}, end={self.end!r})"

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        is_schedule = isinstance(self.rho, keras.optimizers.schedules.LearningRateSchedule)
        return {
            "rho": keras.saving.serialize_keras_object(self.rho) if is_schedule else self.rho,
            "warmup": self.warmup,
            "begin": self.begin,
            "end": self.end,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The schedule that `get_config` described."""
        rho = config["rho"]
        return cls(**config | {"rho": keras.saving.deserialize_keras_object(rho) if isinstance(rho, dict) else rho})
