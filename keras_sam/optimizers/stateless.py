"""The steps as pure functions of the optimizer's variables, for `jax.jit`."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_sam.backend import running

Values = Sequence[Any]
Result = tuple[list[Any], list[Any]]


class StatelessSteps:
    """What `SAMOptimizer` does to variables in place, done to their values. For the JAX backend only.

    Every method takes `optimizer_variables`, the values of `optimizer.variables`; `grads`, one tensor or `None` for
    each trainable variable; and `trainable_variables`, the values of the variables that it was built with. It returns
    `(trainable_variables, optimizer_variables)`. It raises `RuntimeError` on another backend, and
    `ValueError` if the optimizer is not built or a list has the wrong length.
    """

    def stateless_first_step(
        self: Any, optimizer_variables: Values, grads: Values | None, trainable_variables: Values
    ) -> Result:
        """`first_step`: returns the perturbed weights and the new state."""
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._climb(grads, self._trainable_variables)
        return current_values(scope, self._trainable_variables), current_values(scope, self.variables)

    def stateless_second_step(
        self: Any, optimizer_variables: Values, grads: Values, trainable_variables: Values
    ) -> Result:
        """`second_step`, from the weights and the state that `stateless_first_step` returned."""
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._descend()
            grads = self.descent_gradients(grads, self._trainable_variables)
        result: Result = self._stateless_base_step(scope, grads)
        return result

    def stateless_single_step(
        self: Any, optimizer_variables: Values, grads: Values, trainable_variables: Values
    ) -> Result:
        """`single_step`."""
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            grads = self.single_gradients(grads, self._trainable_variables)
        result: Result = self._stateless_base_step(scope, grads)
        return result

    def stateless_is_ascent_step(self: Any, optimizer_variables: Values) -> Any:
        """`is_ascent_step`, a boolean tensor."""
        with keras.StatelessScope(state_mapping=zip(self.variables, optimizer_variables, strict=True)):
            return self.is_ascent_step()

    def stateless_apply(self: Any, optimizer_variables: Values, grads: Values, trainable_variables: Values) -> Result:
        """`apply`, in the `train_step` of a `SAMModel`."""
        step = running.step_of(self)
        self._check_stateless(optimizer_variables, grads, trainable_variables)
        self.has_stepped = True
        result: Result = step.apply(self, optimizer_variables, grads, trainable_variables)
        return result

    # A batch in parts.

    def stateless_begin_mean(self: Any, optimizer_variables: Values) -> list[Any]:
        """The state before the first part."""
        with keras.StatelessScope(state_mapping=zip(self.variables, optimizer_variables, strict=True)) as scope:
            self.begin_mean()
        return current_values(scope, self.variables)

    def stateless_add_to_mean(
        self: Any, optimizer_variables: Values, grads: Values, trainable_variables: Values, share: Any
    ) -> Result:
        """`stateless_second_step` that adds to the mean over the parts what the base optimizer would receive."""
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._descend()
            self.add_to_mean(grads, self._trainable_variables, share)
        return current_values(scope, self._trainable_variables), current_values(scope, self.variables)

    def stateless_apply_mean(
        self: Any, optimizer_variables: Values, grads: Values, trainable_variables: Values
    ) -> Result:
        """The base optimizer's step on the mean over the parts, of which `grads` are those of the last."""
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            means = self.mean_gradients(grads, self._trainable_variables)
        result: Result = self._stateless_base_step(scope, means)
        return result

    # A perturbation that was not taken back.

    def stateless_restore(self: Any, optimizer_variables: Values, trainable_variables: Values) -> Result:
        """`restore`, from the weights and the state that `stateless_first_step` returned."""
        with self._stateless_scope(optimizer_variables, trainable_variables) as scope:
            self._descend()
            self.clear_perturbations()
        return current_values(scope, self._trainable_variables), current_values(scope, self.variables)

    def _stateless_base_step(self: Any, scope: keras.StatelessScope, grads: Values) -> Result:
        """The base optimizer's step on what `scope` holds, but outside it: its loss scaler's `cond` would leak."""
        weights, base_state = (
            current_values(scope, group) for group in (self._trainable_variables, self.base_optimizer.variables)
        )
        weights, base_state = self.base_optimizer.stateless_apply(base_state, grads, weights)
        return weights, base_state + current_values(scope, self.own_variables)

    def _check_stateless(
        self: Any, optimizer_variables: Values, grads: Values | None, trainable_variables: Values
    ) -> None:
        if keras.backend.backend() != "jax":
            raise RuntimeError(
                "Stateless steps are for the JAX backend; call `first_step` and `second_step` instead. "
                f"Received: backend {keras.backend.backend()!r}."
            )
        if not self.built:
            raise ValueError("Call `optimizer.build(trainable_variables)` before a stateless step.")
        for what, given, expected in (
            ("optimizer_variables", optimizer_variables, self.variables),
            ("grads", trainable_variables if grads is None else grads, self._trainable_variables),
            ("trainable_variables", trainable_variables, self._trainable_variables),
        ):
            if len(given) != len(expected):
                raise ValueError(
                    f"`{what}` must have one entry for each of the {len(expected)} variables. After freezing or "
                    f"unfreezing layers compile the model again, with a new optimizer. Received: {len(given)} entries."
                )

    def _stateless_scope(self: Any, optimizer_variables: Any, trainable_variables: Any) -> keras.StatelessScope:
        variables = [*self._trainable_variables, *self.variables]
        values = [*trainable_variables, *optimizer_variables]
        return keras.StatelessScope(state_mapping=zip(variables, values, strict=True))


def current_values(scope: keras.StatelessScope, variables: Sequence[Any]) -> list[Any]:
    """The values that variables have at the end of a scope."""
    return [scope.get_current_value(v) for v in variables]
