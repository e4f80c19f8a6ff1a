"""One training step with SAM: Keras's own step, or yours, with a second gradient asked for inside it."""

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_sam import backend
from keras_sam.backend.running import thread
from keras_sam.optimizers import SAMOptimizer


def sam_train_step(model: keras.Model, *args: Any, train_step: Callable[..., Any] | None = None) -> Any:
    """Run a training step, in which SAM optimizers ask for the gradient at the perturbed weights.

    It is what `keras_sam.SAMModel` does, for classes that override `train_step` themselves. With no SAM optimizer it is
    the step alone.

    When the step calls `apply` of a SAM optimizer, it is run again as far as that, at the perturbed weights, from the
    state in which it began: statistics, and random numbers from Keras seed generators (on PyTorch, from torch's own for
    CPU and CUDA too). Then it goes on, with the weights updated by that second gradient, and with all else as it was.

    Args:
        model: The compiled model.
        *args: What Keras gave to `train_step`: `data` on TensorFlow and PyTorch, `state, data` on JAX.
        train_step: The step to run, a function of `*args`. Defaults to that of `keras.Model`; pass
            `super().train_step` if your class inherits another.

    Returns:
        What `train_step` returns: the logs, a dict of scalars; on JAX, `(logs, state)`.

    Raises:
        RuntimeError: if the step hands no gradients to `model.optimizer`, a SAM optimizer, or applies it where the
            backend cannot ask: in a loop of TensorFlow's or JAX's, or a `tf.function`, within the step.
        ValueError: if a loss scaler is around the SAM optimizer and not inside, or a second SAM optimizer has options
            that only the model's own can have.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> class MyModel(keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1)
        ...     def call(self, x):
        ...         return self.dense(x)
        ...     def train_step(self, *args):  # (self, data), or (self, state, data) on JAX
        ...         return keras_sam.sam_train_step(self, *args)
        >>> model = MyModel()
        >>> model.compile(keras_sam.SAMOptimizer("sgd"), loss="mse")
        >>> logs = model.train_on_batch(np.ones((4, 2)), np.ones((4, 1)), return_dict=True)
        >>> sorted(logs)
        ['loss']
    """
    if train_step is None:
        inherited = keras.Model.train_step

        def train_step(*args: Any) -> Any:
            return inherited(model, *args)

    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and isinstance(
        optimizer.inner_optimizer, SAMOptimizer
    ):
        raise ValueError(
            "The loss scaler must be inside SAM, or the weights stay perturbed when it skips a step: "
            "`SAMOptimizer(keras.optimizers.LossScaleOptimizer(base))`, compiled with `auto_scale_loss=False`. "
            "`SAMModel.compile` puts that right by itself."
        )
    asked_for_another = thread.step is not None and thread.step.asked is not None
    if asked_for_another or not any(isinstance(each, SAMOptimizer) for each in (optimizer, *_attributes(model))):
        return train_step(*args)
    return backend.sam_step(model, train_step, *args)


def _attributes(model: keras.Model) -> Iterator[Any]:
    """What the model holds, one by one, for there may be a second optimizer."""
    for value in vars(model).values():
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value
