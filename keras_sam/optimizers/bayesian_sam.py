"""Bayesian SAM: SAM whose neighbourhood is the posterior of the weights, which it learns along with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam.optimizers import arguments
from keras_sam.optimizers.gaussian_posterior import GaussianPosterior
from keras_sam.optimizers.gradient_mean import GradientMean
from keras_sam.optimizers.noisy_steps import NoisySteps
from keras_sam.optimizers.two_gradients import TwoGradientOptimizer

ABOVE_0 = (lambda value: value > 0), "a positive float"
FROM_0 = (lambda value: value >= 0), "a float >= 0"
BELOW_1 = (lambda value: 0 <= value < 1), "a float >= 0 and below 1"


@keras.saving.register_keras_serializable(package="keras_sam")
class BayesianSAMOptimizer(NoisySteps, TwoGradientOptimizer):
    r"""bSAM: learns a Gaussian posterior of the weights, N(w, 1 / (num_data * s)), for calibrated probabilities.

        n  = standard normal noise
        g  = gradient at w + n / sqrt(num_data * s)
        e  = rho * g / s                                  from w, without the noise
        g' = gradient at w + e
        m  = beta_1 * m + (1 - beta_1) * (g' + d * w)     d = prior_precision / num_data; m = 0 before the first step
        w  = base_optimizer(w, m / s)
        s  = beta_2 * s + (1 - beta_2) * (sqrt(s) * |g| + damping + d)

    element by element. On SGD without momentum this is the algorithm of the paper. A step that does not climb, where
    `rho` is 0 or between those of `interval`, takes g for both gradients: it learns the posterior without SAM, for
    `posterior_predict`. It costs 2 gradient passes a step, and holds 4 copies of the weights, with g, m and s.
    The reported loss and metrics are those at the noise. In a hand-written loop `noise_step` comes first.

    Args:
        base_optimizer: The optimizer that updates the weights: best `keras.optimizers.SGD` without momentum.
        rho: Float >= 0 or schedule: how far to climb. No radius, as the perturbation grows with g. Start from 0.05.
        num_data: Number of training samples, on whose mean loss it trains: the more, the surer the posterior.
        beta_1: Float >= 0 and below 1, how slowly m forgets.
        beta_2: Float >= 0 and below 1, how slowly s forgets.
        prior_precision: Float >= 0, that of the prior N(0, 1 / prior_precision) of every weight: d is weight decay.
        damping: Float >= 0, what keeps s from 0.
        initial_precision: Positive float, the first s.
        seed: Integer, for the same noise in every run.
        name: Name of the optimizer.
        **kwargs: Other arguments of `SAMOptimizer`, without `adaptive`. Weights that `perturb` leaves out have no
            noise; with `num_batch_splits` each part has its own, and |g| is its mean over the parts.

    Raises:
        ValueError: if an argument is out of its range, or the base optimizer accumulates gradients.

    Examples:
        >>> import keras, keras_sam
        >>> w = keras.Variable([2.0])
        >>> optimizer = keras_sam.BayesianSAMOptimizer("sgd", rho=0.5, num_data=100, prior_precision=0.0)
        >>> optimizer.noise_step([w])  # by a normal draw with standard deviation 0.1
        >>> optimizer.first_step([keras.ops.array([3.0])], [w])
        >>> print(w.numpy())  # e = 0.5 * 3 / 1
        [3.5]
        >>> optimizer.second_step([keras.ops.array([4.0])], [w])
        >>> print(w.numpy())  # m = 0.1 * 4, and the learning rate is 0.01
        [1.996]

    References:
        [Möllenhoff and Khan, 2022, SAM as an Optimal Relaxation of Bayes](https://arxiv.org/abs/2210.01620)
    """

    refused = {"adaptive": "the posterior scales its neighbourhood."}  # noqa: RUF012

    def __init__(
        self,
        base_optimizer: Any,
        rho: Any = 0.05,
        *,
        num_data: int,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        prior_precision: float = 1.0,
        damping: float = 0.1,
        initial_precision: float = 1.0,
        seed: int | None = None,
        name: str = "bayesian_sam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, rho, name=name, **kwargs)
        self.num_data = arguments.positive_integer("num_data", num_data, ", the number of training samples")
        self.beta_1 = arguments.number("beta_1", beta_1, *BELOW_1)
        self.beta_2 = arguments.number("beta_2", beta_2, *BELOW_1)
        self.prior_precision = arguments.number("prior_precision", prior_precision, *FROM_0)
        self.damping = arguments.number("damping", damping, *FROM_0)
        self.initial_precision = arguments.number("initial_precision", initial_precision, *ABOVE_0)
        if self.gradient_accumulation_steps is not None:
            raise ValueError(
                "bSAM takes every gradient into its posterior at once: do not accumulate, but pass larger batches and "
                f"`num_batch_splits`. Received: gradient_accumulation_steps={self.gradient_accumulation_steps}"
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._track_variable(self.seed_generator.state)  # to be saved, and to be part of the state on JAX

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation, g, m and s."""
        super().build_slots(variables)
        self.posterior = GaussianPosterior(self, variables)
        if self.num_batch_splits is not None:
            self.size_mean = GradientMean(self, variables, "size_mean")

    def ascent_directions(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """`g / s`."""
        return self.posterior.over_precision(self.unscaled(gradients))

    def ascent_length(self, norm: Any) -> Any:
        """`rho`, whatever the norm."""
        return self._current_rho(norm.dtype)

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """`m / s`, with both gradients in m and s."""
        ascent, descent = self.both(gradients, variables)
        return self.shares(self.posterior.learn(descent, ascent), gradients, variables)

    def single_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """The same, from one gradient, after the noise is taken back."""
        self._descend()
        known = self.known(gradients, variables)
        return self.shares(self.posterior.learn(known, known), gradients, variables)

    def begin_mean(self) -> None:
        """Forget the parts of the batch before."""
        super().begin_mean()
        self.size_mean.begin()

    def add_to_mean(self, gradients: Sequence[Any], variables: Sequence[Any], share: Any) -> None:
        """Take in g' and |g| of a part."""
        ascent, descent = self.both(gradients, variables)
        self.gradient_mean.add(descent, share)
        self.size_mean.add({i: ops.abs(g) for i, g in ascent.items()}, share)

    def mean_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """`m / s`, from the means over the parts."""
        means = super().mean_gradients(gradients, variables)
        known = self.known(means, self._trainable_variables)
        sizes = dict(zip(known, self.size_mean.read(known), strict=True))
        return self.shares(self.posterior.learn(known, sizes), means, self._trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        names = ("num_data", "beta_1", "beta_2", "prior_precision", "damping", "initial_precision", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}
