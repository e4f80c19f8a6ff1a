"""The mixin that gives a Keras model the two passes of SAM."""

from typing import Any

import keras

from keras_sam.models.train_step import sam_train_step
from keras_sam.optimizers import SAMOptimizer


class SAMModel:
    """Mixin for Keras models that makes `fit` and `train_on_batch` train with SAM.

    Place it before `keras.Model`, `keras.Sequential` or your own model class, and compile with a
    `keras_sam.SAMOptimizer`. With any other optimizer the model trains as it did before.

    The model's training step runs twice on each batch, whatever it does: Keras's own step, or a
    custom `train_step` of a class further along the method resolution order. The reported loss and
    metrics, the batch-norm statistics and other non-trainable variables are those of the first pass,
    at the unperturbed weights; both passes draw the same random numbers.

    Raises:
        TypeError: when the class is defined, if a Keras model stands before `SAMModel`.

    Example:
    >>> import keras, keras_sam, numpy as np
    >>> class SAMFunctional(keras_sam.SAMModel, keras.Model):
    ...     pass
    >>> inputs = keras.Input((4,))
    >>> model = SAMFunctional(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile(keras_sam.SAMOptimizer("adam", rho=0.05), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), epochs=2, verbose=0)
    >>> len(history.history["loss"])
    2

    References:
        [Foret et al., 2020](https://arxiv.org/abs/2010.01412)
    """

    optimizer: Any  # set by `compile`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[1 : cls.__mro__.index(SAMModel)]
        for base in before:
            if issubclass(base, keras.Model) and not issubclass(base, SAMModel):
                raise TypeError(
                    f"`SAMModel` must stand before `{base.__name__}`, whose `train_step` would hide it otherwise: "
                    f"`class {cls.__name__}(keras_sam.SAMModel, {base.__name__})`. Received: "
                    f"`class {cls.__name__}({', '.join(b.__name__ for b in cls.__bases__)})`."
                )

    def train_step(self, *args: Any) -> Any:
        """Make one training step: two passes with a SAM optimizer, one with any other."""
        return sam_train_step(self, *args, train_step=super().train_step)  # type: ignore[misc]

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update and return the metrics; the second pass only returns them."""
        if getattr(self.optimizer, "in_second_pass", False):
            return self.get_metrics_result()  # type: ignore[attr-defined, no-any-return]
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)  # type: ignore[misc, no-any-return]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure the model for training; the arguments are those of `keras.Model.compile`.

        Under `mixed_float16` Keras puts its `LossScaleOptimizer` around the optimizer. Here it goes
        inside, around the base optimizer, so that the weights are restored even when the scaler skips
        a step.
        """
        super().compile(*args, **kwargs)  # type: ignore[misc]
        optimizer = self.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            self.optimizer = scaler_inside(optimizer)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a model that was loaded from a file, unless its class has a `compile` of its own."""
        inherited = super().compile  # type: ignore[misc]
        if type(self).compile is not SAMModel.compile or inherited.__func__ is not keras.Model.compile:
            super().compile_from_config(config)  # type: ignore[misc]
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]


def scaler_inside(scaler: keras.optimizers.LossScaleOptimizer) -> keras.optimizers.Optimizer:
    """`SAMOptimizer(LossScaleOptimizer(base))` for `LossScaleOptimizer(SAMOptimizer(base))`; others as they are."""
    sam = scaler.inner_optimizer
    if not isinstance(sam, SAMOptimizer):
        return scaler
    if not isinstance(sam.base_optimizer, keras.optimizers.LossScaleOptimizer):
        sam.base_optimizer = keras.optimizers.LossScaleOptimizer(
            sam.base_optimizer, initial_scale=scaler.initial_scale, dynamic_growth_steps=scaler.dynamic_growth_steps
        )
    return sam
