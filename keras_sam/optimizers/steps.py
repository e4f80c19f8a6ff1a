"""The steps that a training loop makes, and the one that Keras's own training step makes of them."""

import threading
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_sam import backend
from keras_sam.backend import running


class _Here(threading.local):
    """Of a thread, as `MirroredStrategy` runs each replica in one of its own."""

    def __init__(self) -> None:
        self.perturbed = False
        self.drawn = False  # perturbed, by noise that the coming climb takes back


class Steps:
    """`first_step` and `second_step` of an optimizer, what is between them, and `apply`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._here = _Here()
        self.has_stepped = False

    def first_step(
        self: Any, gradients: Sequence[Any] | None, trainable_variables: Sequence[Any] | None = None
    ) -> None:
        """Climb: perturb the weights along the gradient at the current weights.

        Args:
            gradients: One tensor for each variable, of its shape, or `None` where the loss does
                not depend on it; such a variable stays where it is. For an algorithm that climbs without a
                gradient, such as `MSAMOptimizer`, `None` in place of the list.
            trainable_variables: The variables, in the order of `gradients`. Defaults to those that
                the optimizer was built with.

        Raises:
            RuntimeError: if the weights are perturbed already, or if the algorithm wants `noise_step` first.
            ValueError: if the number of gradients is not that of the variables, or if a list is given where the
                algorithm needs none, or none where it needs one.

        Examples:
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
        self._check_drawn("first_step")
        if self._here.perturbed and not self._here.drawn:
            raise RuntimeError(
                "`first_step` was called on weights that are perturbed already. Call `second_step` first, or "
                "`restore()` to give up the step that was begun (after an exception between the two steps)."
            )
        if (gradients is not None) != self.ascent_needs_gradient:
            raise ValueError(
                f"{type(self).__name__} climbs "
                + (
                    "along a gradient: pass one tensor (or None) for each variable. Received: gradients=None"
                    if self.ascent_needs_gradient
                    else "without a gradient: call `first_step(None, trainable_variables)`, and save its computation. "
                    f"Received: {len(gradients or ())} gradients."
                )
            )
        self._climb(gradients, self._resolve(gradients, trainable_variables))
        self._here.perturbed, self._here.drawn = True, False

    def second_step(self: Any, gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Descend: restore the weights and update them with the gradient at the perturbed weights.

        Args:
            gradients: One tensor for each variable, of its shape, or `None`.
            trainable_variables: The variables, in the order of `gradients`. Defaults to those that
                the optimizer was built with.

        Raises:
            RuntimeError: if the weights are not perturbed.
            ValueError: if the number of gradients is not that of the variables.
        """
        if not self._here.perturbed or self._here.drawn:
            raise RuntimeError(
                "`second_step` was called on weights from which no climb was made. Call `first_step` with the "
                "gradients at the weights before it; for a plain step of the base optimizer call "
                "`base_optimizer.apply`."
            )
        variables = self._resolve(gradients, trainable_variables)
        self.restore()
        self.base_optimizer.apply(self.descent_gradients(gradients, variables), variables)

    def single_step(self: Any, gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update the weights with one gradient, at the weights themselves: a step between those that climb.

        Args:
            gradients: One tensor for each variable, of its shape, or `None`.
            trainable_variables: The variables, in the order of `gradients`. Defaults to those that
                the optimizer was built with.

        Raises:
            RuntimeError: if the weights are perturbed, or if the algorithm wants `noise_step` first.
            ValueError: if the number of gradients is not that of the variables.
        """
        self._check_drawn("single_step")
        if self._here.perturbed and not self._here.drawn:
            raise RuntimeError("`single_step` was called on weights that are perturbed. Call `second_step` first.")
        variables = self._resolve(gradients, trainable_variables)
        gradients = self.single_gradients(gradients, variables)
        self.forget()
        self.base_optimizer.apply(gradients, variables)

    def is_ascent_step(self: Any) -> Any:
        """Whether the coming step climbs: its radius is above 0, and its turn in `interval` has come.

        A boolean tensor, or a `bool` if all steps are alike. In a hand-written loop: where it holds, `first_step` and
        `second_step`, else `single_step`.
        """
        if self.steps_differ:
            return self.climbs_at(self.iterations)
        return not self.ascent_needs_gradient or bool(self.rho)

    @property
    def steps_differ(self: Any) -> bool:
        """Whether some steps climb along a gradient and others do not, or may not."""
        return bool(self.ascent_needs_gradient and (self._has_schedule or (self.interval > 1 and self.rho > 0)))

    def climbs_at(self: Any, iteration: Any, training: Any = None) -> Any:
        """Whether a step climbs, by the base optimizer's iteration, a boolean tensor."""
        turn = ops.equal(iteration % self.interval, 0)
        return ops.logical_and(turn, self.radius_at(iteration, training) > 0) if self._has_schedule else turn

    def restore(self: Any) -> None:
        """Take the perturbation back without a step: what to call if a step fails between its two halves.

        It does nothing to weights that are not perturbed.
        """
        if self._here.perturbed:
            self._descend()
            self.forget()

    def apply(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Make a step, in the `train_step` of a `SAMModel`: climb, ask for the gradient there, and descend with it.

        Args:
            grads: One tensor for each variable, of its shape, or `None`: the gradient at the weights.
            trainable_variables: The variables, in the order of `grads`. Defaults to those that the optimizer was
                built with.

        Raises:
            RuntimeError: outside of such a step, and in a place of it that TensorFlow compiles apart.
            ValueError: if the number of gradients is not that of the variables.
        """
        step = running.step_of(self)
        self.has_stepped = True
        step.apply(self, grads, self._resolve(grads, trainable_variables))

    def apply_gradients(self: Any, grads_and_vars: Any) -> Any:
        """`apply` for pairs of a gradient and its variable. Returns the iteration count."""
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.apply(gradients, variables)
        return self.iterations

    # What a running step makes use of.

    @property
    def memory(self: Any) -> list[Any]:
        """The variables that hold what is remembered between steps."""
        passing = [*self.perturbations, *(self.gradient_mean.variables if self.num_batch_splits else [])]
        passing += [self.training_span] if self.has_shares else []
        return [v for v in self.own_variables if not any(v is other for other in passing)]

    def forget(self: Any) -> None:
        """Take weights for unperturbed that were put back in another way, or never were perturbed but in a graph."""
        self._here.perturbed = self._here.drawn = False

    def clear_perturbations(self: Any) -> None:
        """Set the slots of the perturbation to zero, so that to take it back once more changes nothing."""
        slots = [slot for slot in self.perturbations if slot is not None]
        backend.assign(slots, [ops.zeros_like(value) for value in backend.values(slots)])

    def begin_mean(self: Any) -> None:
        """Forget the parts of the batch before."""
        self.gradient_mean.begin()

    def add_to_mean(self: Any, gradients: Sequence[Any], variables: Sequence[Any], share: Any) -> None:
        """Take in the gradients at the perturbed weights of a part, which is this share of the batch."""
        descent = self.descent_gradients(gradients, variables)
        self.gradient_mean.add(self.known(descent, variables), share)

    def mean_gradients(self: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """What the base optimizer receives for a batch in parts, of which `gradients` are those of the last."""
        means: list[Any] = self.gradient_mean.means(self._trainable_variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            if self._overwrite_variable_with_gradient(variable):  # it is no gradient, but the variable's new value
                means[self._get_variable_index(variable)] = gradient
        return means

    def _check_drawn(self: Any, method: str) -> None:
        if self.draws_noise and not self._here.drawn:
            raise RuntimeError(
                f"{type(self).__name__} takes the first gradient of a step at weights that it draws: call `noise_step` "
                f"before that gradient is computed. Received: `{method}` without it."
            )

    def _resolve(self: Any, gradients: Sequence[Any] | None, variables: Sequence[Any] | None) -> list[Any]:
        """The variables of a step, after building the optimizer for them or checking that it knows them."""
        if variables is None and not self.built:
            raise ValueError(
                "The optimizer has no variables yet. Pass `trainable_variables`, or call "
                "`optimizer.build(trainable_variables)` first."
            )
        variables = list(self._trainable_variables if variables is None else variables)
        if gradients is not None and len(gradients) != len(variables):
            raise ValueError(
                "There must be one gradient (or None) for each trainable variable. "
                f"Received: {len(gradients)} gradients for {len(variables)} variables."
            )
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        return variables
