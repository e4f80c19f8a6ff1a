"""VaSSO: climb along an average of gradients, whose direction is steadier than that of one batch."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_sam.optimizers import arguments
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.slots import MovingAverage


@keras.saving.register_keras_serializable(package="keras_sam")
class VaSSOOptimizer(SAMOptimizer):
    r"""Variance-suppressed sharpness-aware optimization: an averaged direction of the climb.

        d = (1 - theta) * d + theta * g            d = g on the first step
        e = rho * d / (‖d‖ + epsilon)

    and otherwise `SAMOptimizer`. It costs 2 gradient passes a step, and holds 2 copies of the weights: the perturbation
    and d.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. Start from 0.05.
        theta: Float above 0 and at most 1, the weight of the newest gradient. 1 is SAM; try 0.2 to 0.9.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.VaSSOOptimizer(keras.optimizers.SGD(0.0), rho=0.5, theta=0.5)
        >>> for g in ([1.0, 0.0], [-1.0, 2.0]):
        ...     optimizer.first_step([keras.ops.array(g)], [w])
        ...     print(w.numpy())  # the second climb is along [0, 1]
        ...     optimizer.second_step([keras.ops.array(g)], [w])
        [3.5 4. ]
        [3.  4.5]

    References:
        [Li and Giannakis, 2023, Enhancing Sharpness-Aware Optimization Through Variance
        Suppression](https://arxiv.org/abs/2309.15639)
    """

    def __init__(
        self, base_optimizer: Any, rho: Any = 0.05, theta: float = 0.4, name: str = "vasso", **kwargs: Any
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.theta = arguments.number("theta", theta, lambda value: 0 < value <= 1, "a float above 0 and at most 1")

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation and for the direction d."""
        super().build_slots(variables)
        self.direction = MovingAverage(self, variables, "ascent_direction")

    def ascent_directions(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """The average, with this batch in it."""
        return self.direction.update(self.unscaled(gradients), self.theta)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"theta": self.theta}
