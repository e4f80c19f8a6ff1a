"""SAM for a model that exists already."""

import functools
import inspect
import types
from typing import Any

import keras

from keras_sam.models.sam_model import SAMModel


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMFunctional(SAMModel, keras.Model):
    """A functional model that trains with SAM."""


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMSequential(SAMModel, keras.Sequential):
    """A Sequential model that trains with SAM."""


def as_sam_model(model: keras.Model) -> keras.Model:
    """A model with the layers and weights of `model` that trains with SAM.

    Training one changes the weights of both. Compile the result with a `keras_sam.SAMOptimizer`.

    Args:
        model: A functional, Sequential or subclassed model, for example one of
            `keras.applications`. A custom class keeps its methods, its `train_step` among them; to
            load such a model from a `.keras` file, declare
            `class MySAMModel(keras_sam.SAMModel, MyModel)` instead, so that Keras finds the class.

    Returns:
        An uncompiled model, of a class that is both a `SAMModel` and the class of `model`; `model`
        itself if it is a `SAMModel` already.

    Raises:
        TypeError: if `model` is not a Keras model.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model = keras_sam.as_sam_model(plain)
        >>> model.compile(keras_sam.SAMOptimizer("sgd"), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
        >>> model.layers[0] is plain.layers[0]
        True
    """
    if isinstance(model, SAMModel):
        return model
    if not isinstance(model, keras.Model):
        raise TypeError(f"`as_sam_model` takes a Keras model. Received: {model!r} of type {type(model).__name__}.")
    if type(model).__name__ == "Functional" and type(model).__module__.startswith("keras."):
        functional = SAMFunctional(model.input, model.output, name=model.name)
        functional.dtype_policy = model.dtype_policy
        return functional
    return _sharing_state(SAMSequential if type(model) is keras.Sequential else _sam_class(type(model)), model)


def _sam_class(model_class: Any) -> Any:
    return type(f"SAM{model_class.__name__}", (SAMModel, model_class), {"__module__": model_class.__module__})


def _sharing_state(cls: Any, model: keras.Model) -> keras.Model:
    """An object of `cls` with the attributes of `model`, as its constructor may take anything."""
    twin = cls.__new__(cls)
    own = {name: value for name, value in vars(twin).items() if callable(value)}  # bound to the twin itself
    vars(twin).update({name: _rebound(value, model, twin) for name, value in vars(model).items()} | own)
    twin.compiled = False
    twin.optimizer = None
    return twin


def _rebound(value: Any, model: keras.Model, twin: keras.Model) -> Any:
    """A method of `model` that it keeps as an attribute, or among others in one, as a method of its twin."""
    if inspect.ismethod(value) and value.__self__ is model:
        own = getattr(twin, value.__name__, None)  # which lets the running step know the loss, if that is the method
        same = inspect.ismethod(own) and inspect.unwrap(own.__func__) is value.__func__
        return own if same else types.MethodType(value.__func__, twin)
    if isinstance(value, functools.partial):
        function, *arguments = (_rebound(each, model, twin) for each in (value.func, *value.args))
        keywords = {name: _rebound(each, model, twin) for name, each in value.keywords.items()}
        return functools.partial(function, *arguments, **keywords)
    if isinstance(value, dict):
        rebound: Any = {name: _rebound(each, model, twin) for name, each in value.items()}
        return rebound if any(rebound[name] is not each for name, each in value.items()) else value
    if isinstance(value, list) or type(value) is tuple:
        rebound = [_rebound(each, model, twin) for each in value]
        changed = any(new is not old for new, old in zip(rebound, value, strict=True))
        return (rebound if isinstance(value, list) else tuple(rebound)) if changed else value
    return value
