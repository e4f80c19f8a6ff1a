"""The steps of an optimizer that takes the first gradient not at the weights, but at a draw around them."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_sam import backend
from keras_sam.optimizers.gaussian_posterior import GaussianPosterior, standard_normal
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.stateless import Result, Values, current_values


class NoisySteps(SAMOptimizer):
    """A SAM optimizer of whose step `noise_step` is the beginning.

    The slots of the perturbation hold what is added to the weights at the moment, and zero where nothing is, so that to
    take it back twice changes nothing.
    """

    draws_noise = True
    seed_generator: Any
    posterior: GaussianPosterior

    def noise(self, variables: Sequence[Any]) -> list[Any]:
        """Standard normal noise for each variable; that of the next call is another."""
        return standard_normal(variables, self._working_dtype, self.seed_generator)

    def noise_step(self, trainable_variables: Sequence[Any] | None = None) -> None:
        """Move the weights to a draw, where the first gradient of a step is to be taken; the climb takes it back.

        Args:
            trainable_variables: The variables. Defaults to those that the optimizer was built with.

        Raises:
            RuntimeError: if the weights are perturbed already.
        """
        if self._here.perturbed:
            raise RuntimeError(
                "`noise_step` was called on weights that are perturbed already. Call `first_step` and `second_step` "
                "first, or `restore()` to give up the step that was begun (after an exception in it)."
            )
        self._resolve(None, trainable_variables)
        self._draw()
        self._here.perturbed = self._here.drawn = True

    def stateless_noise_step(self, optimizer_variables: Values, trainable_variables: Values) -> Result:
        """`noise_step`, as the other stateless steps: returns the perturbed weights and the new state."""
        self._check_stateless(optimizer_variables, None, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._draw()
        return current_values(scope, self._trainable_variables), current_values(scope, self.variables)

    def _draw(self) -> None:
        moving = [i for i, slot in enumerate(self.perturbations) if slot is not None]
        variables, slots = ([group[i] for i in moving] for group in (self._trainable_variables, self.perturbations))
        noise = self.posterior.spread(moving, self.noise(variables))
        backend.displace(variables, slots, noise, 1.0, finite=ops.isfinite(backend.global_norm(noise)))

    def _climb(self, gradients: Sequence[Any] | None, variables: Sequence[Any]) -> None:
        """Take the noise back, and climb from the weights themselves."""
        self._descend()
        super()._climb(gradients, variables)

    def _descend(self) -> None:
        super()._descend()
        self.clear_perturbations()
