"""A Keras optimizer around another, the base optimizer, whose settings and state it shows as its own."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.optimizers import arguments
from keras_sam.optimizers.seen_through import SeenThrough


class WrapperOptimizer(keras.optimizers.Optimizer):
    """An optimizer that leaves everything but its own step to a base optimizer.

    Args:
        base_optimizer: An optimizer, its name, or its config.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Refused, with a hint to set them on the base optimizer.
    """

    built: bool
    weight_decay = SeenThrough()
    clipnorm = SeenThrough()
    clipvalue = SeenThrough()
    global_clipnorm = SeenThrough()
    use_ema = SeenThrough()
    ema_momentum = SeenThrough()
    ema_overwrite_frequency = SeenThrough()
    loss_scale_factor = SeenThrough()
    gradient_accumulation_steps = SeenThrough()

    def __init__(self, base_optimizer: Any, name: str, **kwargs: Any) -> None:
        if kwargs:
            settings = ", ".join(f"{key}=..." for key in kwargs)
            raise ValueError(
                f"{type(self).__name__} takes no arguments of the optimizer it wraps. Set them on the base optimizer: "
                f"`{type(self).__name__}(keras.optimizers.SGD({settings}))`. Received: {kwargs}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.base_optimizer = arguments.base_optimizer(base_optimizer, wrapper=WrapperOptimizer)

    def build(self, variables: Sequence[Any]) -> None:
        """Build the base optimizer, and the slots that a subclass creates in `build_slots`.

        Args:
            variables: The trainable variables, as a list of `keras.Variable`.
        """
        if self.built:
            return
        variables = list(variables)
        if not self.base_optimizer.built:
            self.base_optimizer.build(variables)
        # Not `super().build`: it would create the averages and accumulators that the base optimizer has already.
        self._trainable_variables.extend(variables)
        self._trainable_variables_indices.update({self._var_key(v): i for i, v in enumerate(variables)})
        # Half precision is too coarse for a norm over a network; and one float64 layer makes all computing float64.
        wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in variables)
        self._working_dtype = "float64" if wide else "float32"
        self.build_slots(variables)
        self.built = True

    def add_slot(self, variable: Any, name: str, initializer: Any = "zeros") -> Any:
        """A variable of the optimizer's own for `variable`: like it, but of the dtype that is computed in.

        `None` for a variable whose gradient is its new value, as those of quantized training, which must be let alone.
        """
        if self._overwrite_variable_with_gradient(variable):
            return None
        if keras.backend.standardize_dtype(variable.dtype) == self._working_dtype:
            return self.add_variable_from_reference(variable, name=name, initializer=initializer)
        layout, path = getattr(variable, "_layout", None), variable.path.replace("/", "_")
        return self.add_variable(variable.shape, initializer, self._working_dtype, layout=layout, name=f"{path}_{name}")

    def build_slots(self, variables: list[Any]) -> None:
        """Create the optimizer's own variables."""

    @property
    def variables(self) -> list[Any]:
        """The base optimizer's variables, followed by the slot variables.

        In this order, because JAX reuses the memory of old values for new ones in turn: a slot is written before
        it is read, so its old value is no argument of a compiled step, and the new one must not take another's place.
        """
        return [*self.base_optimizer.variables, *self.own_variables]

    @property
    def own_variables(self) -> list[Any]:
        """The slot variables, without the iteration and the learning rate that Keras made: the base optimizer's count.

        These two stay among what Keras tracks, as TensorFlow saves no object from whose lists something was removed.
        """
        unused = {id(self._iterations), id(self._learning_rate)}
        return [v for v in self._variables if id(v) not in unused]

    @property
    def inner_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that updates the weights, under the name by which Keras callbacks look for it."""
        return arguments.innermost(self.base_optimizer)

    @property
    def optimizers(self) -> Any:
        """Those of a `MultiOptimizer`, by which Keras callbacks know one; of any other there are none."""
        return self.inner_optimizer.optimizers

    @property
    def loss_scaler(self) -> keras.optimizers.LossScaleOptimizer | None:
        """The base optimizer, if it scales the loss dynamically."""
        scaled = isinstance(self.base_optimizer, keras.optimizers.LossScaleOptimizer)
        return self.base_optimizer if scaled else None

    @property
    def learning_rate(self) -> Any:
        """The base optimizer's learning rate."""
        return self.base_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.base_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """The base optimizer's iteration count: one for each training step."""
        return self.base_optimizer.iterations

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Keep variables out of the base optimizer's weight decay.

        Args:
            var_list: The variables, a list of `keras.Variable`.
            var_names: Regular expressions; variables are kept out in whose names one is found.

        Raises:
            ValueError: if the base optimizer is built already.
        """
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def scale_loss(self, loss: Any) -> Any:
        """The loss, multiplied by the base optimizer's loss scale, if it has one."""
        return self.base_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Let the base optimizer set final values, such as averaged weights."""
        self.base_optimizer.finalize_variable_values(var_list)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give all variables their values, those of the base optimizer first, as `variables` has them.

        Args:
            weights: An array for each of `variables`, of its shape.

        Raises:
            ValueError: if the optimizer is not built, or the arrays are not as many or not of these shapes.
        """
        if not self.built:
            raise ValueError("Call `optimizer.build(trainable_variables)` before `set_weights`.")
        shapes = [tuple(variable.shape) for variable in self.variables]
        found = [tuple(np.shape(weight)) for weight in weights]
        if found != shapes:
            raise ValueError(
                f"`weights` must have one array for each of the {len(shapes)} variables of {self.name!r}, of its "
                f"shape. Received: {len(found)} arrays"
                + ("." if len(found) != len(shapes) else f", with other shapes: {found} and not {shapes}.")
            )
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def save_own_variables(self, store: Any) -> None:
        """Save all variables, with those of the base optimizer, as Keras's own wrapper does; none before `build`."""
        for index, variable in enumerate(self.variables if self.built else []):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` has saved, or warn and leave the variables if the store has other ones."""
        keys = list(store.keys())
        variables = self.variables if self.built else []
        if len(keys) == len(self.own_variables):  # an earlier version's file, with the base optimizer's beside them
            variables = self.own_variables
        expected = {str(index): tuple(variable.shape) for index, variable in enumerate(variables)}
        found = {key: tuple(store[key].shape) for key in keys}
        if found != expected:
            warnings.warn(
                f"The slot variables of optimizer {self.name!r} were not loaded: it has {len(expected)} of them and "
                f"the file has {len(found)}, or their shapes differ. The optimizer may not be built yet, or the file "
                "may come from another one.",
                stacklevel=2,
            )
            return
        for index, variable in enumerate(variables):
            variable.assign(store[str(index)])
