"""WSAM: weigh the sharpness of the loss against the loss itself."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.two_gradients import TwoGradientOptimizer


@keras.saving.register_keras_serializable(package="keras_sam")
class WSAMOptimizer(TwoGradientOptimizer):
    r"""Sharpness-Aware Minimization with sharpness as a weighted regularizer.

    With g the gradient at w, g' the gradient at the perturbed weights as in `SAMOptimizer`, and
    a = gamma / (1 - gamma):

        w = base_optimizer(w - learning_rate * a * (g' - g), g)      decouple=True
        w = base_optimizer(w, (1 - a) * g + a * g')                  decouple=False

    Decoupled, the sharpness g' - g does not enter the base optimizer's momentum and second moments. It costs 2
    gradient passes a step, and holds 2 copies of the weights: the perturbation and g.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. Start from 0.05.
        gamma: Weight of the sharpness, at least 0 and below 1. 0 is the base optimizer; without decoupling
            0.5 is SAM. Try 0.5 to 0.95.
        decouple: Whether to take the sharpness out of the base optimizer, which must then have one learning rate, and
            not be a `MultiOptimizer`.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`. With `decouple=True` no `num_batch_splits`, and no
            gradient accumulation on the base optimizer: the sharpness of every part would move the weights before
            the base optimizer does.

    Raises:
        ValueError: if an argument is out of its range, or does not go with `decouple=True`.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.WSAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5, gamma=0.5)
        >>> optimizer.first_step([keras.ops.array([3.0, 4.0])], [w])
        >>> optimizer.second_step([keras.ops.array([3.3, 4.4])], [w])
        >>> print(w.numpy().round(4))
        [2.67 3.56]

    References:
        [Yue et al., 2023, Sharpness-Aware Minimization Revisited: Weighted Sharpness as a
        Regularization Term](https://arxiv.org/abs/2305.15817)
    """

    def __init__(
        self,
        base_optimizer: Any,
        rho: Any = 0.05,
        gamma: float = 0.9,
        decouple: bool = True,
        name: str = "wsam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.gamma = arguments.number("gamma", gamma, lambda value: 0 <= value < 1, "a float >= 0 and below 1")
        self.decouple = bool(decouple)
        multi = getattr(keras.optimizers, "MultiOptimizer", ())  # not in older versions of Keras
        if self.decouple and isinstance(self.inner_optimizer, multi):
            raise ValueError(
                "`decouple=True` takes the sharpness off the weights at the base optimizer's learning rate, of which a "
                f"`MultiOptimizer` has several. Pass `decouple=False`. Received: base_optimizer={self.base_optimizer}"
            )
        for setting in ("num_batch_splits", "gradient_accumulation_steps"):
            if self.decouple and getattr(self, setting) is not None:
                raise ValueError(
                    f"`{setting}` does not go with `decouple=True`: the sharpness of each part would move the weights "
                    f"before the base optimizer does. Pass `decouple=False`. Received: "
                    f"{setting}={getattr(self, setting)}"
                )

    @property
    def sharpness_weight(self) -> float:
        """The factor a = gamma / (1 - gamma)."""
        return self.gamma / (1 - self.gamma)

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """The mixture of both gradients; decoupled, g itself, after the sharpness has moved the weights."""
        ascent, descent = self.both(gradients, variables)
        if not self.decouple:
            a = self.sharpness_weight
            mixture = backend.weighted_sum(1 - a, ascent.values(), a, descent.values())
            return self.shares(dict(zip(descent, mixture, strict=True)), gradients, variables)
        sharpness = backend.weighted_sum(1.0, descent.values(), -1.0, ascent.values())
        # Before the base step, for its constraints and averages to hold of the outcome.
        self._move(self.unscaled(dict(zip(descent, sharpness, strict=True))))
        return self.shares(ascent, gradients, variables)

    def _move(self, sharpness: Any) -> None:
        """Take the sharpness off the weights, unless it overflowed."""
        finite = ops.isfinite(backend.global_norm(sharpness.values()))
        factor = ops.cast(self.learning_rate, self._working_dtype) * self.sharpness_weight
        variables = [self._trainable_variables[i] for i in sharpness]
        for variable, w, s in zip(variables, backend.values(variables), sharpness.values(), strict=True):
            moved = ops.cast(w, s.dtype) - ops.where(finite, factor * s, 0.0)
            backend.assign([variable], [ops.cast(moved, w.dtype)])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"gamma": self.gamma, "decouple": self.decouple}
