"""The mixin whose training step gives a SAM optimizer its two gradients."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_sam import backend
from keras_sam.backend.running import thread
from keras_sam.models.collapse import CollapseWarning
from keras_sam.models.fit_arguments import FitArguments
from keras_sam.models.sharpness import SharpnessReading
from keras_sam.models.train_step import sam_train_step
from keras_sam.models.training_span import TrainingSpan
from keras_sam.optimizers import SAMOptimizer


class SAMModel:
    """Mixin for Keras models that makes `fit` and `train_on_batch` train with SAM.

    Place it before `keras.Model`, `keras.Sequential` or your own model class, and compile with a
    `keras_sam.SAMOptimizer`. With any other optimizer the model trains as it did before.

    The model's training step runs once on each batch: Keras's own step, or a custom `train_step` of a class further
    along the method resolution order. When it hands its gradients to the SAM optimizer, that asks for the gradient at
    the perturbed weights: the step is run again on the batch, from the state in which it began and with the same random
    numbers, as far as its own `apply`, and leaves nothing behind but that gradient. Metrics, batch-norm statistics and
    whatever the step does after its update are as without SAM.

    The logs of training have a `sharpness` too: the loss at the perturbed weights less the loss at the weights,
    averaged over the epoch like the loss. It costs nothing, as both are computed anyway. A step of your own logs it if
    its loss comes from `compute_loss` (on JAX, if it updates the metric named `loss`) and its `apply` does not stand in
    a condition. Set `log_sharpness = False` in the class, or on the model before `compile`, to do without. There is
    none where the first gradient is not at the weights (`MSAMOptimizer`, `BayesianSAMOptimizer`), and `train_on_batch`
    returns it with `return_dict=True` only.

    `fit` warns, once, if after some epochs the network still does no more than guess, as it does with too large a
    radius. For that it looks at some of the data again, but only where the loss stays at what it was.

    Raises:
        TypeError: when the class is defined, if a Keras model stands before `SAMModel`.
        RuntimeError: in the first step, if that hands no gradients to `model.optimizer`, a SAM optimizer.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> class SAMFunctional(keras_sam.SAMModel, keras.Model):
        ...     pass
        >>> inputs = keras.Input((4,))
        >>> model = SAMFunctional(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile(keras_sam.SAMOptimizer("adam", rho=0.05), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), epochs=2, verbose=0)
        >>> sorted(history.history)
        ['loss', 'sharpness']

    References:
        [Foret et al., 2020](https://arxiv.org/abs/2010.01412)
    """

    optimizer: Any  # set by `compile`
    log_sharpness: bool = True
    _sharpness: SharpnessReading | None = None
    _compiled_steps: Any = None  # on JAX, where steps differ
    _climbs: bool | None = None  # on several devices of TensorFlow, where steps differ

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
        compute_loss = getattr(cls, "compute_loss", None)
        if compute_loss is not None and not hasattr(compute_loss, "noted"):
            cls.compute_loss = _noted(compute_loss)  # type: ignore[attr-defined]

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a `rho` in shares of the training is told how long that is, and one that is too large is told of."""
        fit = super().fit  # type: ignore[misc]
        if not isinstance(self.optimizer, SAMOptimizer):
            return fit(*args, **kwargs)
        arguments = FitArguments(fit, args, kwargs)
        callbacks: list[keras.callbacks.Callback] = [TrainingSpan()] if self.optimizer.has_shares else []
        if self._trains_as_keras_does():
            callbacks.append(CollapseWarning(arguments.get("x"), arguments.get("y")))
        for callback in callbacks:
            callback.set_model(self)
        arguments.add_callbacks(callbacks)
        return arguments.call(fit)

    def _trains_as_keras_does(self) -> bool:
        """Whether the loss that it trains with is that of `compute_loss`."""
        step = getattr(super().train_step, "__func__", None)  # type: ignore[misc] # a `tf.function` has none
        return type(self).train_step is SAMModel.train_step and step is keras.Model.train_step

    if not backend.can_train:
        fit = train_on_batch = backend.refuse  # type: ignore[assignment]

    def train_step(self, *args: Any) -> Any:
        """Make one training step: the class's own, in which a SAM optimizer asks for a second gradient."""
        return sam_train_step(self, *args, train_step=super().train_step)  # type: ignore[misc]

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that trains; Keras calls this."""
        make = super().make_train_function  # type: ignore[misc]
        backend.make_train_function(self, functools.partial(make, True) if force else make, force)

    # The sharpness is a metric of which the class itself sees nothing: neither its steps nor its `metrics`.

    def test_step(self, *args: Any) -> Any:
        """Make one evaluation step, the class's own."""
        if keras.backend.backend() != "jax" or self._sharpness is None:
            return super().test_step(*args)  # type: ignore[misc]
        (*others, metrics), data = args
        own = len(self._sharpness.metric.variables)
        hidden, self._sharpness = self._sharpness, None
        try:
            logs, (*others, new) = super().test_step((*others, metrics[:-own]), data)  # type: ignore[misc]
        finally:
            self._sharpness = hidden
        return logs, (*others, [*new, *metrics[-own:]])

    def reset_metrics(self) -> None:
        """Begin anew with all metrics, as Keras does for an epoch."""
        super().reset_metrics()  # type: ignore[misc]
        if self._sharpness is not None:
            self._sharpness.metric.reset_state()

    @property
    def metrics_variables(self) -> list[Any]:
        """The variables of the metrics; on JAX, which carries them along, with those of the sharpness at the end."""
        variables: list[Any] = super().metrics_variables  # type: ignore[misc]
        runs = thread.step is not None and thread.step.model is self
        if keras.backend.backend() != "jax" or self._sharpness is None or runs:
            return variables
        return [*variables, *self._sharpness.metric.variables]

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        """Keras's logs of an epoch: the metrics, if the step returns just these."""
        if self._sharpness is None or not isinstance(logs, dict) or "sharpness" not in logs:
            return super()._get_metrics_result_or_logs(logs)  # type: ignore[misc]
        others = {name: value for name, value in logs.items() if name != "sharpness"}
        found = super()._get_metrics_result_or_logs(others)  # type: ignore[misc]
        return found | {"sharpness": self._sharpness.metric.result()}

    def _flatten_metrics_in_order(self, logs: Any) -> Any:
        """What `train_on_batch` returns without `return_dict`: no sharpness."""
        if self._sharpness is not None:
            logs = {name: value for name, value in logs.items() if name != "sharpness"}
        return super()._flatten_metrics_in_order(logs)  # type: ignore[misc]

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
        sam = self.optimizer if isinstance(self.optimizer, SAMOptimizer) else None
        at_the_weights = sam is not None and sam.ascent_needs_gradient and not sam.draws_noise  # the first gradient
        logged = at_the_weights and self.log_sharpness and not _names_its_metrics(type(self))
        self._sharpness = SharpnessReading() if logged else None
        self._compiled_steps = None  # those of the optimizer before

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a model that was loaded from a file, unless its class has a `compile` of its own."""
        inherited = super().compile  # type: ignore[misc]
        if type(self).compile is not SAMModel.compile or inherited.__func__ is not keras.Model.compile:
            super().compile_from_config(config)  # type: ignore[misc]
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]


def _noted(compute_loss: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with the same signature, that lets the running step know the loss."""

    @functools.wraps(compute_loss)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, *args, **kwargs)
        if thread.step is not None and thread.step.model is self:
            thread.step.note_loss(loss)
        return loss

    noted.noted = True  # type: ignore[attr-defined]
    return noted


def _names_its_metrics(model_class: type) -> bool:
    """Whether a class in front of `SAMModel` has a `metrics` of its own, which says what is to be logged."""
    before = model_class.__mro__[: model_class.__mro__.index(SAMModel)]
    return any("metrics" in vars(each) for each in before)


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
