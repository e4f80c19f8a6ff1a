"""A radius that follows the learning rate."""

from typing import Any, Self

import keras
from keras import ops

from keras_sam.optimizers import arguments


@keras.saving.register_keras_serializable(package="keras_sam")
class RhoSchedule(keras.optimizers.schedules.LearningRateSchedule):
    r"""A `rho` that is large where the learning rate is large, as GSAM's authors use it; any SAM optimizer takes it.

        rho = min_rho + (max_rho - min_rho) * (lr - min_learning_rate) / (max_learning_rate - min_learning_rate)

    Args:
        learning_rate: The `keras.optimizers.schedules.LearningRateSchedule` that the base optimizer has too.
        max_learning_rate: Learning rate at which rho is `max_rho`.
        max_rho: Float >= 0.
        min_learning_rate: Learning rate at which rho is `min_rho`.
        min_rho: Float >= 0.

    Raises:
        ValueError: if an argument is out of its range, or both learning rates are the same.

    Examples:
        >>> import keras, keras_sam
        >>> rate = keras.optimizers.schedules.PolynomialDecay(0.1, 100, end_learning_rate=0.0)
        >>> rho = keras_sam.RhoSchedule(rate, max_learning_rate=0.1, max_rho=0.05, min_rho=0.01)
        >>> optimizer = keras_sam.GSAMOptimizer(keras.optimizers.SGD(rate), rho=rho)
        >>> [round(float(rho(step)), 3) for step in (0, 50, 100)]
        [0.05, 0.03, 0.01]

    References:
        [Zhuang et al., 2022](https://arxiv.org/abs/2203.08065)
    """

    def __init__(
        self,
        learning_rate: keras.optimizers.schedules.LearningRateSchedule,
        max_learning_rate: float,
        max_rho: float,
        min_learning_rate: float = 0.0,
        min_rho: float = 0.0,
    ) -> None:
        if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "`learning_rate` must be a `keras.optimizers.schedules.LearningRateSchedule`, the one that the base "
                f"optimizer has. Received: learning_rate={learning_rate!r}"
            )
        self.learning_rate = learning_rate
        bounds = {"min_learning_rate": min_learning_rate, "min_rho": min_rho, "max_rho": max_rho}
        for name, value in bounds.items():
            setattr(self, name, arguments.number(name, value, lambda value: value >= 0, "a float >= 0"))
        self.max_learning_rate = arguments.number(
            "max_learning_rate",
            max_learning_rate,
            lambda value: value > min_learning_rate,
            f"a float above min_learning_rate={min_learning_rate}",
        )

    def __call__(self, step: Any) -> Any:
        """The radius at `step`."""
        span = self.max_learning_rate - self.min_learning_rate
        share = (ops.cast(self.learning_rate(step), "float32") - self.min_learning_rate) / span
        return self.min_rho + (self.max_rho - self.min_rho) * share

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            "learning_rate": keras.saving.serialize_keras_object(self.learning_rate),
            "max_learning_rate": self.max_learning_rate,
            "max_rho": self.max_rho,
            "min_learning_rate": self.min_learning_rate,
            "min_rho": self.min_rho,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The schedule that `get_config` described."""
        learning_rate = keras.saving.deserialize_keras_object(config["learning_rate"])
        return cls(**config | {"learning_rate": learning_rate})
