"""MSAM: climb along the momentum, which is there before the gradient is: one gradient a step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.slots import Slots


@keras.saving.register_keras_serializable(package="keras_sam")
class MSAMOptimizer(SAMOptimizer):
    r"""Momentum SAM: the perturbation comes from past gradients, so that a step costs a single gradient pass.

        e = rho * v / (‖v‖ + epsilon)              v = 0 before the first step
        g = gradient at w + e
        v = momentum * v - g
        w = base_optimizer(w, g)

    Between steps the weights are unperturbed, so that validation and saving need no care. The reported loss and metrics
    are those at w + e, as no other pass is made. It holds 2 copies of the weights: the perturbation and v, which is
    MSAM's own, so that any base optimizer will do. In a hand-written loop, `first_step(None, variables)` climbs.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. MSAM wants a larger one than SAM, 1 to 2, but
            not on small tables.
        momentum: Float >= 0 and below 1, how slowly v forgets.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: `epsilon` and `perturb`, as in `SAMOptimizer`.

    Raises:
        ValueError: if an argument is out of its range, or is one that only makes sense with an ascent pass.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.MSAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5)
        >>> for _ in range(2):
        ...     optimizer.first_step(None, [w])
        ...     print(w.numpy())
        ...     optimizer.second_step([keras.ops.array([1.0, 0.0])], [w])
        [3. 4.]
        [2.4 4. ]

    References:
        [Becker et al., 2024, Momentum-SAM: Sharpness Aware Minimization without Computational
        Overhead](https://arxiv.org/abs/2401.12033)
    """

    ascent_needs_gradient = False
    refused = {  # noqa: RUF012
        "adaptive": "its neighbourhood is not scaled.",
        "num_batch_splits": "all parts of a batch would have the same perturbation.",
        "interval": "there is no ascent pass to leave out.",
        "ascent_fraction": "there is no ascent pass.",
    }

    def __init__(
        self, base_optimizer: Any, rho: Any = 1.5, momentum: float = 0.9, name: str = "msam", **kwargs: Any
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.momentum = arguments.number("momentum", momentum, lambda value: 0 <= value < 1, "a float >= 0 and below 1")

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation and for the momentum v."""
        super().build_slots(variables)
        self.velocities = Slots(self, variables, "velocity")

    def _climb(self, gradients: Sequence[Any] | None, variables: Sequence[Any]) -> None:
        """Move along v, without a gradient."""
        moving = [i for i, slot in enumerate(self.perturbations) if slot is not None]
        self._displace(dict(zip(moving, self.velocities.read(moving), strict=True)))

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """The gradients as they are; v takes them in, unless they overflowed."""
        known = self.unscaled(self.known(gradients, variables))
        finite = ops.isfinite(backend.global_norm(known.values()))
        self.velocities.write_if(finite, self.velocities.blended(self.momentum, known, -1.0))
        return gradients

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"momentum": self.momentum}
