"""Friendly SAM: climb along what is particular to this batch, without the part that all batches share."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.slots import MovingAverage


@keras.saving.register_keras_serializable(package="keras_sam")
class FriendlySAMOptimizer(SAMOptimizer):
    r"""Friendly SAM: take an average of past gradients out of the direction of the climb.

        d = g - sigma * m                          m = 0 on the first step
        e = rho * d / (‖d‖ + epsilon)
        m = lmbda * m + (1 - lmbda) * g            m = g on the first step

    and otherwise `SAMOptimizer`. It costs 2 gradient passes a step, and holds 2 copies of the weights: the perturbation
    and m.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. Start from 0.05.
        sigma: Float >= 0, how much of the average to take out. 0 is SAM.
        lmbda: Float >= 0 and below 1, how slowly the average forgets.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.FriendlySAMOptimizer(keras.optimizers.SGD(0.0), rho=0.5)
        >>> for g in ([1.0, 0.0], [1.0, 2.0]):
        ...     optimizer.first_step([keras.ops.array(g)], [w])
        ...     print(w.numpy())  # the second climb is along [1, 2] - [1, 0]
        ...     optimizer.second_step([keras.ops.array(g)], [w])
        [3.5 4. ]
        [3.  4.5]

    References:
        [Li et al., 2024, Friendly Sharpness-Aware Minimization](https://arxiv.org/abs/2403.12350)
    """

    def __init__(
        self,
        base_optimizer: Any,
        rho: Any = 0.05,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        name: str = "friendly_sam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.sigma = arguments.number("sigma", sigma, lambda value: value >= 0, "a float >= 0")
        self.lmbda = arguments.number("lmbda", lmbda, lambda value: 0 <= value < 1, "a float >= 0 and below 1")

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation and for the average m."""
        super().build_slots(variables)
        self.average = MovingAverage(self, variables, "gradient_average")

    def ascent_directions(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """`g - sigma * m`, with the average from before this step."""
        gradients = self.unscaled(gradients)
        past = self.average.read(gradients)
        directions = backend.weighted_sum(1.0, gradients.values(), -self.sigma, past)
        self.average.update(gradients, 1 - self.lmbda)
        return dict(zip(gradients, directions, strict=True))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"sigma": self.sigma, "lmbda": self.lmbda}
