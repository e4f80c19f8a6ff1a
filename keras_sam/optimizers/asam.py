"""ASAM: a neighbourhood that grows with the weights, so that it does not depend on how the network is scaled."""

from typing import Any

import keras

from keras_sam.optimizers import arguments
from keras_sam.optimizers.sam import SAMOptimizer

BIAS_LIKE = ("bias", "beta")


@keras.saving.register_keras_serializable(package="keras_sam")
class ASAMOptimizer(SAMOptimizer):
    r"""Adaptive SAM, as its authors' code has it: biases are not scaled.

        T = |w| + eta                  element by element; 1 for variables named `bias` or `beta`
        e = rho * T² g / (‖T g‖ + epsilon)

    and otherwise `SAMOptimizer`. It costs 2 gradient passes a step, and holds 1 copy of the weights, the perturbation.
    `SAMOptimizer(adaptive=True)` is the variant with eta = 0 that scales biases as well.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, in multiples of the weights. Start from 0.5; try 0.5 to 2.
        eta: Float >= 0, the least scale of a weight.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`, without `adaptive`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, keras_sam
        >>> kernel = keras.Variable([3.0, 0.0], name="kernel")
        >>> optimizer = keras_sam.ASAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5, eta=1.0)
        >>> optimizer.first_step([keras.ops.array([1.0, 0.0])], [kernel])
        >>> print(kernel.numpy())  # T = 4, e = 0.5 * 16 / 4
        [5. 0.]

    References:
        [Kwon et al., 2021, ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
        Learning of Deep Neural Networks](https://arxiv.org/abs/2102.11600)
    """

    refused = {"adaptive": "it scales the neighbourhood by |w| + eta always."}  # noqa: RUF012

    def __init__(
        self, base_optimizer: Any, rho: Any = 0.5, eta: float = 0.01, name: str = "asam", **kwargs: Any
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.eta = arguments.number("eta", eta, lambda value: value >= 0, "a float >= 0")

    def ascent_scale(self, variable: Any) -> Any:
        """`|w| + eta`, or `None`, that is 1, for biases."""
        return None if variable.name in BIAS_LIKE else self.sizes(variable) + self.eta

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"eta": self.eta}
