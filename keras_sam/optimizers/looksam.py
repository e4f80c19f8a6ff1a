"""LookSAM: climb on every few steps only, and reuse what the last climb found in the steps between."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.products import projection
from keras_sam.optimizers.two_gradients import TwoGradientOptimizer


@keras.saving.register_keras_serializable(package="keras_sam")
class LookSAMOptimizer(TwoGradientOptimizer):
    r"""LookSAM: a full SAM step now and then, and one gradient pass on the steps between.

    Every `interval`-th step is that of `SAMOptimizer`, with g the gradient at w and g' the gradient at the perturbed
    weights, and remembers the part of g' that leads to flatness:

        h = g' - (g·g' / ‖g‖²) g            orthogonal to g
        w = base_optimizer(w, g')

    On the other steps g is the only gradient:

        w = base_optimizer(w, g + alpha * (‖g‖ / ‖h‖) h)

    Products and norms run over all variables together. It costs 1 + 1/interval gradient passes a step on average,
    and holds 2 copies of the weights: the perturbation and h.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config.
        rho: Radius of the neighbourhood, as in `SAMOptimizer`. Start from 0.05. With 0 the direction h is not
            defined: g' is g.
        interval: Steps from one SAM step to the next, an integer >= 1. 1 is SAM.
        alpha: Float >= 0, the weight of h in the steps between. 0.7 is the paper's, for batches of thousands; with
            small batches, of which h keeps the noise, try 0.1.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`, without `num_batch_splits`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.LookSAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5, interval=2, alpha=0.5)
        >>> optimizer.first_step([keras.ops.array([3.0, 0.0])], [w])
        >>> optimizer.second_step([keras.ops.array([3.0, 1.0])], [w])  # h = [0, 1]
        >>> print(w.numpy().round(4), bool(optimizer.is_ascent_step()))
        [2.7 3.9] False
        >>> optimizer.single_step([keras.ops.array([2.0, 0.0])], [w])  # [2, 0] + 0.5 * 2 * [0, 1]
        >>> print(w.numpy().round(4), bool(optimizer.is_ascent_step()))
        [2.5 3.8] True

    References:
        [Liu et al., 2022, Towards Efficient and Scalable Sharpness-Aware
        Minimization](https://arxiv.org/abs/2203.02714)
    """

    refused = {"num_batch_splits": "the steps between would follow the direction of one part."}  # noqa: RUF012

    def __init__(
        self,
        base_optimizer: Any,
        rho: Any = 0.05,
        interval: int = 5,
        alpha: float = 0.7,
        name: str = "looksam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, rho, interval=interval, name=name, **kwargs)
        self.alpha = arguments.number("alpha", alpha, lambda value: value >= 0, "a float >= 0")

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """The second gradient as it is; the slots keep h in place of g."""
        ascent, descent = self.both(gradients, variables)
        along = projection(list(descent.values()), list(ascent.values()))
        h = backend.weighted_sum(1.0, descent.values(), -along, ascent.values())
        self.ascent_gradients.clear_all_but(descent)
        self.ascent_gradients.write(dict(zip(descent, h, strict=True)))
        return gradients

    def single_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """`g + alpha * (‖g‖ / ‖h‖) h`, and g where h is zero."""
        known = self.known(gradients, variables)
        h = self.ascent_gradients.read(known)
        length = backend.global_norm(h)
        scale = self.alpha * backend.global_norm(known.values()) / ops.where(length > 0, length, 1.0)
        turned = backend.weighted_sum(1.0, known.values(), scale, h)
        return self.shares(dict(zip(known, turned, strict=True)), gradients, variables)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"alpha": self.alpha}
