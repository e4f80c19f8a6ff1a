"""GSAM: also narrow the gap between the loss at the worst point and the loss at the weights."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.products import projection
from keras_sam.optimizers.two_gradients import TwoGradientOptimizer


@keras.saving.register_keras_serializable(package="keras_sam")
class GSAMOptimizer(TwoGradientOptimizer):
    r"""Surrogate Gap Guided SAM: SAM that also climbs the part of the gradient that SAM's descent does not see.

    With g the gradient at w and g' the gradient at the perturbed weights, as in `SAMOptimizer`:

        h = g - (g·g' / ‖g'‖²) g'           the part of g that is orthogonal to g'
        w = base_optimizer(w, g' - alpha * h)

    where the products run over all variables together. It costs 2 gradient passes a step, and holds 2 copies of the
    weights: the perturbation and g. The paper lets `rho` follow the learning rate: see `keras_sam.RhoSchedule`.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. Start from 0.05.
        alpha: Float >= 0, the weight of the surrogate gap. 0 is SAM; try 0.1 to 0.4.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.GSAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5, alpha=0.5)
        >>> optimizer.first_step([keras.ops.array([3.0, 4.0])], [w])
        >>> optimizer.second_step([keras.ops.array([5.0, 0.0])], [w])
        >>> print(w.numpy().round(4))  # g' - 0.5 * [0, 4] = [5, -2]
        [2.5 4.2]

    References:
        [Zhuang et al., 2022, Surrogate Gap Minimization Improves Sharpness-Aware
        Training](https://arxiv.org/abs/2203.08065)
    """

    def __init__(
        self, base_optimizer: Any, rho: Any = 0.05, alpha: float = 0.4, name: str = "gsam", **kwargs: Any
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.alpha = arguments.number("alpha", alpha, lambda value: value >= 0, "a float >= 0")

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """`g' - alpha * (g - projection of g on g')`."""
        ascent, descent = self.both(gradients, variables)
        along = projection(list(ascent.values()), list(descent.values()))
        combined = backend.weighted_sum(1 + self.alpha * along, descent.values(), -self.alpha, ascent.values())
        return self.shares(dict(zip(descent, combined, strict=True)), gradients, variables)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"alpha": self.alpha}
