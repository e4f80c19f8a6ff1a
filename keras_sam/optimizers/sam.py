"""SAM: climb to the worst point within `rho` of the weights, and descend with the gradient found there."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.gradient_mean import GradientMean
from keras_sam.optimizers.stateless import StatelessSteps
from keras_sam.optimizers.steps import Steps
from keras_sam.optimizers.wrapper import WrapperOptimizer


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMOptimizer(Steps, StatelessSteps, WrapperOptimizer):
    r"""Sharpness-Aware Minimization around any Keras optimizer.

    One step takes two gradients of the same batch. The *ascent* gradient gives the perturbation
    `e` that raises the loss most within a ball of radius `rho`, and the weights are moved there; the
    *descent* gradient is the one at the perturbed weights, which the base optimizer receives after
    the weights are restored:

        g  = gradient at w
        e  = rho * g / (norm(g) + epsilon)                adaptive=False
        e  = rho * w^2 * g / (norm(|w| * g) + epsilon)    adaptive=True
        g' = gradient at w + e
        w  = base_optimizer(w, g')

    where products are element by element, and the norm runs over all variables together. A gradient that is zero or
    not finite perturbs nothing: that step is then decided by the descent gradient alone.

    Use it with a `keras_sam.SAMModel`, whose `fit` gives it both gradients; in a hand-written loop
    call `first_step` and `second_step` yourself. Learning rate and its schedule, iterations, weight
    decay, clipping, EMA, gradient accumulation and loss scaling are the base optimizer's: set them
    there, read them here.

    Args:
        base_optimizer: The optimizer that updates the weights: an instance, a name such as
            `"sgd"`, or a config, as `keras.optimizers.get` takes.
        rho: Radius of the neighbourhood, in the units of the weights (Euclidean norm over all
            trainable variables). A float >= 0, or a
            `keras.optimizers.schedules.LearningRateSchedule` that is read at the base optimizer's
            iteration, such as `RhoWarmup`. 0.05 is the paper's starting point; try 0.02 to 0.5. A step at radius 0 is
            the base optimizer's.
        adaptive: Whether to scale the neighbourhood by the size of each weight, so that it does not
            depend on how the network is scaled. Use a larger `rho` then, from 0.5 to 2.
        epsilon: Positive float added to the norm.
        num_batch_splits: Into how many parts `SAMModel` splits each batch (m-sharpness). Each part gets its
            own perturbation, and the base optimizer steps on the mean of their descent gradients,
            weighted by samples. With `None` or 1 the whole batch has one perturbation. Smaller parts
            generalize better in the paper and need less memory for activations, but one more copy of
            the weights for the mean.
        perturb: A regular expression, or a list of them, that is searched for in the variables' paths: only
            variables that match are perturbed, and only they count in the norm. `r"(gamma|beta)$"` is
            SAM-ON (arXiv 2306.04226). With `None`, all are.
        interval: Climb on every `interval`-th step only, and take plain steps of the base optimizer between. A
            step then costs 1 + 1/interval gradient passes on average. `SAMModel` does that; in a
            hand-written loop ask `is_ascent_step()`.
        ascent_fraction: Share of each batch of which a `SAMModel` takes the ascent gradient, from its first samples on,
            at least one; above 0, at most 1. A step then costs 1 + ascent_fraction gradient passes. The reported
            loss, metrics and batch-norm statistics are of that share, as they come from that run.
        name: Name of the optimizer and prefix of its variables.

    Raises:
        ValueError: if an argument is out of its range, if the base optimizer is itself a SAM
            optimizer, or if an argument of the base optimizer, such as `clipnorm`, is given here; when the
            optimizer is built, if a pattern of `perturb` matches no variable.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> class Classifier(keras_sam.SAMModel, keras.Sequential):
        ...     pass
        >>> model = Classifier([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
        >>> model.compile(
        ...     keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05),
        ...     loss="sparse_categorical_crossentropy",
        ... )
        >>> history = model.fit(np.ones((8, 4)), np.zeros(8), epochs=3, verbose=0)
        >>> history.history["loss"][-1] < history.history["loss"][0]
        True

    References:
        [Foret et al., 2020, Sharpness-Aware Minimization for Efficiently Improving
        Generalization](https://arxiv.org/abs/2010.01412)
    """

    ascent_needs_gradient: ClassVar[bool] = True
    draws_noise: ClassVar[bool] = False  # whether the first gradient of a step is taken at a draw around the weights
    # Arguments of this class that a subclass has no use for, with the reason.
    refused: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        base_optimizer: Any,
        rho: float | keras.optimizers.schedules.LearningRateSchedule = 0.05,
        adaptive: bool = False,
        epsilon: float = 1e-12,
        num_batch_splits: int | None = None,
        perturb: str | Sequence[str] | None = None,
        interval: int = 1,
        ascent_fraction: float = 1.0,
        name: str = "sam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, name, **kwargs)
        self._rho = arguments.radius(rho)
        self._training: tuple[float, float] | None = None  # its first step and its steps, where rho needs to know
        if self.has_shares:
            self.training_span = self.add_variable((2,), dtype="float32", name="training_span")  # for compiled steps
        self.adaptive = bool(adaptive)
        self.epsilon = arguments.number("epsilon", epsilon, lambda value: value > 0, "a positive float")
        self.num_batch_splits = arguments.splits(num_batch_splits)
        self.perturb = arguments.patterns("perturb", perturb)
        self._matched: dict[str, dict[str, bool]] = {}  # by argument and path, what its patterns matched
        self.interval = arguments.positive_integer("interval", interval)
        self.ascent_fraction = arguments.number(
            "ascent_fraction", ascent_fraction, lambda value: 0 < value <= 1, "a float above 0 and at most 1"
        )
        usual = {"adaptive": False, "num_batch_splits": None, "interval": 1, "ascent_fraction": 1.0}
        for argument, why in self.refused.items():
            if getattr(self, argument) != usual[argument]:
                raise ValueError(
                    f"{type(self).__name__} takes no `{argument}`: {why} "
                    f"Received: {argument}={getattr(self, argument)!r}"
                )

    @property
    def rho(self) -> float | keras.optimizers.schedules.LearningRateSchedule:
        """The radius, fixed at construction because compiled steps hold it; pass a schedule to vary it."""
        return self._rho

    @property
    def _has_schedule(self) -> bool:
        return isinstance(self.rho, keras.optimizers.schedules.LearningRateSchedule)

    @property
    def has_shares(self) -> bool:
        """Whether `rho` is given in shares of the training, so that it has to know how long that is."""
        return bool(getattr(self.rho, "has_shares", False))

    def begin_training(self, first_step: float, steps: float) -> None:
        """Say how long the training is, for a `rho` in shares of it; `fit` of a `SAMModel` does.

        Args:
            first_step: The iteration at which it begins.
            steps: How many steps of the base optimizer it has.
        """
        self._training = float(first_step), float(steps)
        if self.has_shares:
            self.training_span.assign(self._training)

    def radius_at(self, iteration: Any, training: Any = None) -> Any:
        """The radius at an iteration of the base optimizer; `training` is where the optimizer has it, if not given."""
        rho: Any = self.rho
        if not self._has_schedule:
            return rho
        if not self.has_shares:
            return rho(iteration)
        if self._training is None:
            raise RuntimeError(
                f"The `rho` of {type(self).__name__} is given in shares of the training, of which it does not know how "
                "long it is: train with `fit` of a `SAMModel`, call `optimizer.begin_training(0, steps)` before a loop "
                "of your own, or give `rho` in steps."
            )
        return rho.within(iteration, self.training_span.value if training is None else training)

    @property
    def gradient_passes(self) -> float:
        """The cost of a step whose radius is above 0, on average: how often a batch's gradient is computed.

        A step at radius 0 costs one.
        """
        climbs = self.ascent_needs_gradient and self.rho != 0.0
        return 1 + self.ascent_fraction / self.interval if climbs else 1.0

    # What an algorithm is made of: others override some of these. Gradients are keyed by the index of their variable,
    # dense, summed over replicas, and in float32 or wider; lists of gradients are as a training loop gives them.

    def remember(self, gradients: Mapping[int, Any]) -> None:
        """Keep what the descent needs of the ascent gradients."""
        return  # AutoGraph wants a body

    def ascent_directions(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """The direction in which to climb, given the gradients of the variables that are to be perturbed."""
        return gradients

    def ascent_scale(self, variable: Any) -> Any:
        """The factor T of the size of a weight, by which the neighbourhood is scaled; `None` for 1."""
        return self.sizes(variable) if self.adaptive else None

    def ascent_length(self, norm: Any) -> Any:
        """By what the directions are multiplied, whose norm, each scaled by T, this is."""
        return self._current_rho(norm.dtype) / (norm + self.epsilon)

    def descent_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """What the base optimizer receives, given the gradients at the perturbed weights; these are restored."""
        return gradients

    def single_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """What the base optimizer receives in a step that does not climb."""
        return gradients

    def sizes(self, variable: Any) -> Any:
        """The absolute values of a variable's weights, for computing with them."""
        (weights,) = backend.cast(backend.values([variable]), self._working_dtype)
        return ops.abs(weights)

    def known(self, gradients: Sequence[Any], variables: Sequence[Any]) -> dict[int, Any]:
        """The gradients that are not `None`, keyed by the index of their variable, for computing with them."""
        dense = {
            self._get_variable_index(v): g
            for v, g in zip(variables, backend.synchronize(gradients), strict=True)
            if g is not None and not self._overwrite_variable_with_gradient(v)
        }
        return dict(zip(dense, backend.cast(dense.values(), self._working_dtype), strict=True))

    def shares(self, known: Mapping[int, Any], gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The inverse of `known`: one for each of `gradients`, for the base optimizer to sum over replicas again."""
        indices = [self._get_variable_index(v) for v in variables]
        return [
            ops.cast(backend.share(known[i]), g.dtype) if g is not None and i in known else g
            for i, g in zip(indices, gradients, strict=True)
        ]

    def unscaled(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """Gradients without the loss scale, which changes from step to step."""
        scale = self.scale_loss(1.0)
        return gradients if isinstance(scale, float) and scale == 1.0 else {i: g / scale for i, g in gradients.items()}

    # The two steps' own parts.

    def _current_rho(self, dtype: Any) -> Any:
        return ops.cast(self.radius_at(self.iterations), dtype) if self._has_schedule else self.rho

    def _climb(self, gradients: Sequence[Any] | None, variables: Sequence[Any]) -> None:
        """Find the directions and perturb the weights."""
        known = self.known(gradients or [None] * len(variables), variables)
        self.remember(known)
        moving = {i: g for i, g in known.items() if self.perturbations[i] is not None}
        self._displace(self.ascent_directions(moving))

    def _displace(self, directions: Mapping[int, Any]) -> None:
        """Perturb the weights; every slot receives the displacement that was applied, zero where there is none."""
        resting = [slot for i, slot in enumerate(self.perturbations) if slot is not None and i not in directions]
        backend.assign(resting, [ops.zeros_like(value) for value in backend.values(resting)])
        if not directions:
            return
        variables, slots = ([group[i] for i in directions] for group in (self._trainable_variables, self.perturbations))
        pairs = list(zip(directions.values(), map(self.ascent_scale, variables), strict=True))
        norm = backend.global_norm(d if t is None else t * d for d, t in pairs)
        scaled = (d if t is None else ops.square(t) * d for d, t in pairs)
        # An overflow must not reach the weights: NaN - NaN would never leave them.
        backend.displace(variables, slots, scaled, self.ascent_length(norm), finite=ops.isfinite(norm))

    def _descend(self) -> None:
        """Subtract the applied perturbation from every variable that has a slot."""
        pairs = [
            pair for pair in zip(self._trainable_variables, self.perturbations, strict=True) if pair[1] is not None
        ]
        backend.replace([v for v, _ in pairs], [slot for _, slot in pairs])

    # State.

    def build_slots(self, variables: list[Any]) -> None:
        """Create a slot for the perturbation of each variable that may be perturbed."""
        moves = self.matching("perturb", variables, otherwise=True)
        self.perturbations = [
            self.add_slot(v, "perturbation") if moved else None for v, moved in zip(variables, moves, strict=True)
        ]
        if self.num_batch_splits is not None:
            self.gradient_mean = GradientMean(self, variables)

    def matching(self, argument: str, variables: Sequence[Any], otherwise: bool) -> list[bool]:
        """Which variables match the patterns of an argument; `otherwise`, if there are none."""
        patterns = getattr(self, argument)
        if patterns is None:
            return [otherwise] * len(variables)
        paths = [v.path for v in variables]
        known = arguments.known_again(self._matched.get(argument, {}), paths)
        found = known or arguments.matching(argument, patterns, paths)
        self._matched[argument] = dict(zip(paths, found, strict=True))
        return found

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        # When a file is loaded, the paths that a pattern was matched with lack the model's name.
        matched = {"matched": {name: dict(each) for name, each in self._matched.items()}} if self._matched else {}
        return matched | {
            "base_optimizer": keras.saving.serialize_keras_object(self.base_optimizer),
            "rho": keras.saving.serialize_keras_object(self.rho) if self._has_schedule else self.rho,
            "adaptive": self.adaptive,
            "epsilon": self.epsilon,
            "num_batch_splits": self.num_batch_splits,
            "perturb": self.perturb,
            "interval": self.interval,
            "ascent_fraction": self.ascent_fraction,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The optimizer that `get_config` described."""
        config = dict(config)
        matched = config.pop("matched", {})
        for key in ("base_optimizer", "rho"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
        optimizer = cls(**config)
        optimizer._matched = {name: dict(each) for name, each in matched.items()}
        return optimizer
