"""SAM: climb to the worst point within `rho` of the weights, and descend with the gradient found there."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers.gradient_mean import GradientMean
from keras_sam.optimizers.wrapper import WrapperOptimizer


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMOptimizer(WrapperOptimizer):
    r"""Sharpness-Aware Minimization around any Keras optimizer.

    One step takes two gradients of the same batch. The *ascent* pass finds the perturbation
    `e` that raises the loss most within a ball of radius `rho`, and moves the weights there; the
    *descent* pass takes the gradient at the perturbed weights, restores the weights, and hands that
    gradient to the base optimizer:

        g  = gradient at w
        e  = rho * g / (norm(g) + epsilon)                        adaptive=False
        e  = rho * w^2 * g / (norm(|w| * g) + epsilon)            adaptive=True, element by element
        g' = gradient at w + e
        w  = base_optimizer(w, g')

    where the norm runs over all variables together. A gradient that is zero or not finite
    perturbs nothing: that step is then decided by the descent gradient alone.

    Use it with a `keras_sam.SAMModel`, whose `fit` makes the two passes; in a hand-written loop
    call `first_step` and `second_step` yourself. Learning rate and its schedule, iterations, weight
    decay, clipping, EMA, gradient accumulation and loss scaling are the base optimizer's: set them
    there, read them here.

    Args:
        base_optimizer: The optimizer that updates the weights: an instance, a name such as
            `"sgd"`, or a config, as `keras.optimizers.get` takes.
        rho: Radius of the neighbourhood, in the units of the weights (Euclidean norm over all
            trainable variables). A float >= 0, or a
            `keras.optimizers.schedules.LearningRateSchedule` that is read at the base optimizer's
            iteration. 0.05 is the paper's starting point; try 0.02 to 0.5.
        adaptive: Whether to scale the neighbourhood by the size of each weight, so that it does not
            depend on how the network is scaled. Use a larger `rho` then, from 0.5 to 2.
        epsilon: Positive float added to the norm.
        num_batch_splits: Into how many parts `SAMModel` splits each batch (m-sharpness). Each part gets its
            own perturbation, and the base optimizer steps on the mean of their descent gradients,
            weighted by samples. With `None` or 1 the whole batch has one perturbation. Smaller parts
            generalize better in the paper and need less memory for activations, but one more copy of
            the weights for the mean.
        name: Name of the optimizer and prefix of its variables.

    Raises:
        ValueError: if an argument is out of its range, if the base optimizer is itself a SAM
            optimizer, or if an argument of the base optimizer, such as `clipnorm`, is given here.

    Example:
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

    def __init__(
        self,
        base_optimizer: Any,
        rho: float | keras.optimizers.schedules.LearningRateSchedule = 0.05,
        adaptive: bool = False,
        epsilon: float = 1e-12,
        num_batch_splits: int | None = None,
        name: str = "sam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, name, **kwargs)
        self._rho = _radius(rho)
        self.adaptive = bool(adaptive)
        self.epsilon = _positive("epsilon", epsilon)
        self.num_batch_splits = _splits(num_batch_splits)
        # Set by the training step: what `apply` does with a gradient, and of which part of the batch it is.
        self.phase: Literal["ascent", "collect", "descent"] | None = None
        self.part: tuple[int, Any] = (0, 1.0)  # index, share of the samples
        self._perturbed = False

    @property
    def rho(self) -> float | keras.optimizers.schedules.LearningRateSchedule:
        """The radius, fixed at construction because compiled steps hold it; pass a schedule to vary it."""
        return self._rho

    # The two steps.

    def first_step(self, gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Climb: perturb the weights along the gradient at the current weights.

        Args:
            gradients: One tensor for each variable, of its shape, or `None` where the loss does
                not depend on it; such a variable stays where it is.
            trainable_variables: The variables, in the order of `gradients`. Defaults to those that
                the optimizer was built with.

        Raises:
            RuntimeError: if the weights are perturbed already.
            ValueError: if the number of gradients is not that of the variables.

        Example:
        >>> import keras, keras_sam
        >>> w = keras.Variable([3.0, 4.0])
        >>> optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5)
        >>> optimizer.first_step([keras.ops.array([3.0, 4.0])], [w])
        >>> print(w.numpy().round(4))
        [3.3 4.4]
        >>> optimizer.second_step([keras.ops.array([3.3, 4.4])], [w])
        >>> print(w.numpy().round(4))
        [2.67 3.56]
        """
        if self._perturbed:
            raise RuntimeError(
                "`first_step` was called on weights that are perturbed already. Call `second_step` first, or "
                "`restore()` to give up the step that was begun (after an exception between the two steps)."
            )
        self._climb(gradients, self._resolve(gradients, trainable_variables))
        self._perturbed = True

    def second_step(self, gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Descend: restore the weights and update them with the gradient at the perturbed weights.

        Args:
            gradients: One tensor for each variable, of its shape, or `None`.
            trainable_variables: The variables, in the order of `gradients`. Defaults to those that
                the optimizer was built with.

        Raises:
            RuntimeError: if the weights are not perturbed.
            ValueError: if the number of gradients is not that of the variables.
        """
        if not self._perturbed:
            raise RuntimeError(
                "`second_step` was called on weights that are not perturbed. Call `first_step` with the gradients "
                "at the weights before it; for a plain step of the base optimizer call `base_optimizer.apply`."
            )
        variables = self._resolve(gradients, trainable_variables)
        self.restore()
        self.base_optimizer.apply(gradients, variables)

    def restore(self) -> None:
        """Take the perturbation back without a step: what to call if a step fails between its two halves.

        It does nothing to weights that are not perturbed.
        """
        if self._perturbed:
            self._descend()
            self._perturbed = False

    def stateless_first_step(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`first_step` as a pure function, for `jax.jit`.

        Args:
            optimizer_variables: Values of `optimizer.variables`.
            grads: One tensor, or `None`, for each trainable variable.
            trainable_variables: Values of the variables that the optimizer was built with.

        Returns:
            `(trainable_variables, optimizer_variables)`: the perturbed weights and the new state.

        Raises:
            RuntimeError: on another backend than JAX.
            ValueError: if the optimizer is not built, or a list has the wrong length.
        """
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._climb(grads, self._trainable_variables)
        return _current(scope, self._trainable_variables), _current(scope, self.variables)

    def stateless_second_step(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`second_step` as a pure function, for `jax.jit`.

        Args:
            optimizer_variables: Values of `optimizer.variables`, as `stateless_first_step` left them.
            grads: One tensor, or `None`, for each trainable variable.
            trainable_variables: The perturbed weights that `stateless_first_step` returned.

        Returns:
            `(trainable_variables, optimizer_variables)` after the base optimizer's step.

        Raises:
            RuntimeError: on another backend than JAX.
            ValueError: if the optimizer is not built, or a list has the wrong length.
        """
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._descend()
        # Not inside the scope: the loss scaler's `cond` would leak what it assigns there.
        weights, base_variables = self.base_optimizer.stateless_apply(
            _current(scope, self.base_optimizer.variables), grads, _current(scope, self._trainable_variables)
        )
        return weights, base_variables + _current(scope, self._variables)

    # The same through Keras's own names, for a training step that is run twice.

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """`first_step` in the ascent phase, `second_step` in the descent phase, refused in neither."""
        self._check_phase()
        steps = {"ascent": self.first_step, "collect": self.collect, "descent": self.second_step}
        steps[str(self.phase)](grads, trainable_variables)

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """`apply` for pairs of a gradient and its variable. Returns the iteration count."""
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.apply(gradients, variables)
        return self.iterations

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`stateless_first_step` in the ascent phase, `stateless_second_step` in the descent phase."""
        self._check_phase()
        steps = {
            "ascent": self.stateless_first_step,
            "collect": self.stateless_collect,
            "descent": self.stateless_second_step,
        }
        return steps[str(self.phase)](optimizer_variables, grads, trainable_variables)

    def _check_phase(self) -> None:
        if self.phase is None:
            raise RuntimeError(
                f"{type(self).__name__} needs two gradients a step and was given one. With `fit` or `train_on_batch`, "
                "let the model make both passes: `class MyModel(keras_sam.SAMModel, keras.Model)`, with `SAMModel` "
                "first, or `keras_sam.as_sam_model(model)`. In a hand-written loop call `first_step` with the "
                "gradients at the weights, then `second_step` with those at the perturbed weights."
            )

    # What the algorithm is made of.

    def perturbation(self, gradients: list[Any], weights: list[Any]) -> Iterator[Any]:
        """Yield the perturbation of each of `weights` for its gradient; all are float32, or all float64."""
        pairs = list(zip(gradients, weights, strict=True))
        norm = backend.global_norm(ops.abs(w) * g if self.adaptive else g for g, w in pairs)
        scale = self._current_rho(norm.dtype) / (norm + self.epsilon)
        # An overflow must not reach the weights: NaN - NaN would never leave them.
        finite = ops.isfinite(norm)
        for g, w in pairs:
            direction = ops.square(w) * g if self.adaptive else g
            yield ops.where(finite, scale * direction, 0.0)

    def _current_rho(self, dtype: Any) -> Any:
        if isinstance(self.rho, keras.optimizers.schedules.LearningRateSchedule):
            return ops.cast(self.rho(self.iterations), dtype)
        return self.rho

    def _climb(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Perturb `variables`; every slot receives the displacement that was applied, zero where there is none."""
        gradients = backend.synchronize(gradients)
        known = {self._get_variable_index(v): g for v, g in zip(variables, gradients, strict=True) if g is not None}
        slots = {i: slot for i, slot in enumerate(self.perturbations) if slot is not None}
        moving = [i for i in slots if i in known]
        resting = [slots[i] for i in slots if i not in known]
        backend.assign(resting, [ops.zeros_like(value) for value in backend.values(resting)])
        if not moving:
            return
        variables = [self._trainable_variables[i] for i in moving]
        weights = backend.values(variables)
        dtype = _working_dtype(weights)
        wide = [ops.cast(w, dtype) for w in weights]
        perturbation = self.perturbation([ops.cast(known[i], dtype) for i in moving], wide)
        # One variable at a time, so that no second copy of the weights is needed.
        for i, variable, w, e in zip(moving, variables, wide, perturbation, strict=True):
            # `w + e` is rounded: only what was really added leads back to `w`.
            applied = ops.cast(ops.cast(w + e, variable.dtype), dtype) - w
            backend.assign([slots[i], variable], [applied, ops.cast(w + applied, variable.dtype)])

    def _descend(self) -> None:
        """Subtract the applied perturbation from every variable that has a slot."""
        for variable, slot in zip(self._trainable_variables, self.perturbations, strict=True):
            if slot is not None:
                w, e = backend.values([variable, slot])
                backend.assign([variable], [ops.cast(ops.cast(w, e.dtype) - e, w.dtype)])

    def _perturbation_slot(self, variable: Any) -> Any:
        """A slot of the variable's dtype, or float32 for half precision: only then subtraction leads back exactly."""
        if self._overwrite_variable_with_gradient(variable):
            return None
        if keras.backend.standardize_dtype(variable.dtype) not in ("float16", "bfloat16"):
            return self.add_variable_from_reference(variable, name="perturbation")
        return self.add_variable(
            shape=variable.shape,
            dtype="float32",
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_perturbation",
        )

    # A batch in several parts: each is collected in place of a second step, and a single step ends them all.

    def collect(self, gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Restore the weights, and add the gradient of this part of the batch to the mean over the parts."""
        variables = self._resolve(gradients, trainable_variables)
        self.restore()
        self._add_to_mean(gradients, variables)

    def apply_collected(self) -> None:
        """Take the base optimizer's step on the mean over the parts."""
        self.base_optimizer.apply(self.gradient_mean.values(), self._trainable_variables)

    def stateless_collect(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`collect` as a pure function."""
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._descend()
            self._add_to_mean(grads, self._trainable_variables)
        return _current(scope, self._trainable_variables), _current(scope, self.variables)

    def stateless_apply_collected(
        self, optimizer_variables: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`apply_collected` as a pure function."""
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            gradients = self.gradient_mean.values()
        weights, base_variables = self.base_optimizer.stateless_apply(
            _current(scope, self.base_optimizer.variables), gradients, trainable_variables
        )
        return weights, base_variables + _current(scope, self._variables)

    def _add_to_mean(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        index, share = self.part
        dense = zip(backend.synchronize(gradients), variables, strict=True)
        known = {self._get_variable_index(v): g for g, v in dense if g is not None}
        self.gradient_mean.add(known, share, first=index == 0)

    # State.

    def build_slots(self, variables: list[Any]) -> None:
        """Create a slot for the perturbation of each variable."""
        self.perturbations = [self._perturbation_slot(v) for v in variables]
        if self.num_batch_splits is not None:
            self.gradient_mean = GradientMean(self, variables)

    def _resolve(self, gradients: Sequence[Any], variables: Sequence[Any] | None) -> list[Any]:
        """The variables of a step, after building the optimizer for them or checking that it knows them."""
        if variables is None and not self.built:
            raise ValueError(
                "The optimizer has no variables yet. Pass `trainable_variables`, or call "
                "`optimizer.build(trainable_variables)` first."
            )
        variables = list(self._trainable_variables if variables is None else variables)
        if len(gradients) != len(variables):
            raise ValueError(
                "There must be one gradient (or None) for each trainable variable. "
                f"Received: {len(gradients)} gradients for {len(variables)} variables."
            )
        if not self.built:
            with keras.name_scope(self.name):
                self.build(variables)
        self._check_variables_are_known(variables)
        return variables

    def _check_stateless(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> None:
        if keras.backend.backend() != "jax":
            raise RuntimeError(
                "Stateless steps are for the JAX backend; call `first_step` and `second_step` instead. "
                f"Received: backend {keras.backend.backend()!r}."
            )
        if not self.built:
            raise ValueError("Call `optimizer.build(trainable_variables)` before a stateless step.")
        for what, given, expected in (
            ("optimizer_variables", optimizer_variables, self.variables),
            ("grads", grads, self._trainable_variables),
            ("trainable_variables", trainable_variables, self._trainable_variables),
        ):
            if len(given) != len(expected):
                raise ValueError(
                    f"`{what}` must have one entry for each of the {len(expected)} variables. "
                    f"Received: {len(given)} entries."
                )

    def _stateless_scope(self, optimizer_variables: Any, trainable_variables: Any) -> keras.StatelessScope:
        variables = [*self._trainable_variables, *self.variables]
        values = [*trainable_variables, *optimizer_variables]
        return keras.StatelessScope(state_mapping=zip(variables, values, strict=True))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        schedule = isinstance(self.rho, keras.optimizers.schedules.LearningRateSchedule)
        return {
            "base_optimizer": keras.saving.serialize_keras_object(self.base_optimizer),
            "rho": keras.saving.serialize_keras_object(self.rho) if schedule else self.rho,
            "adaptive": self.adaptive,
            "epsilon": self.epsilon,
            "num_batch_splits": self.num_batch_splits,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The optimizer that `get_config` described."""
        config = dict(config)
        for key in ("base_optimizer", "rho"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
        return cls(**config)


def _radius(rho: Any) -> Any:
    if isinstance(rho, keras.optimizers.schedules.LearningRateSchedule):
        return rho
    if isinstance(rho, bool) or not isinstance(rho, float | int) or not 0 <= rho < math.inf:
        raise ValueError(
            f"`rho` must be a float >= 0 or a `keras.optimizers.schedules.LearningRateSchedule`. Received: rho={rho!r}"
        )
    return float(rho)


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a positive float. Received: {name}={value!r}")
    return float(value)


def _splits(number: Any) -> int | None:
    if number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 1):
        return None if number == 1 else number
    raise ValueError(f"`num_batch_splits` must be an integer >= 1 or None. Received: num_batch_splits={number!r}")


def _working_dtype(tensors: list[Any]) -> str:
    """float32, or float64 if any tensor has it: half precision is too coarse for a norm over a network."""
    return "float64" if any(keras.backend.standardize_dtype(t.dtype) == "float64" for t in tensors) else "float32"


def _current(scope: keras.StatelessScope, variables: Sequence[Any]) -> list[Any]:
    return [scope.get_current_value(v) for v in variables]
