"""What algorithms share that descend with both gradients: the first, kept until the second is there."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_sam import backend
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.slots import Slots


class TwoGradientOptimizer(SAMOptimizer):
    """A SAM optimizer that keeps the gradient at the weights until that at the perturbed ones is there."""

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation and for the ascent gradient."""
        super().build_slots(variables)
        self.ascent_gradients = Slots(self, variables, "ascent_gradient")

    def remember(self, gradients: Mapping[int, Any]) -> None:
        """Keep the ascent gradients; zero where there is none."""
        self.ascent_gradients.clear_all_but(gradients)
        self.ascent_gradients.write(gradients)

    def both(self, gradients: Sequence[Any], variables: Sequence[Any]) -> tuple[dict[int, Any], dict[int, Any]]:
        """The ascent and the descent gradients, with the same loss scale in both.

        An ascent gradient that is not finite perturbed nothing; the descent gradient then stands for it.
        """
        descent = self.known(gradients, variables)
        ascent = self.ascent_gradients.read(descent)
        finite = ops.isfinite(backend.global_norm(ascent))
        return dict(zip(descent, backend.select(finite, ascent, descent.values()), strict=True)), descent
