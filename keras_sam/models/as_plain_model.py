"""A trained model without SAM, to hand on."""

import inspect
from typing import Any

import keras

from keras_sam.models.as_sam_model import Unnamed
from keras_sam.models.sam_model import SAMModel
from keras_sam.models.twin import functional_twin, is_functional, twin_of


def as_plain_model(model: keras.Model) -> keras.Model:
    """A plain Keras model with the layers and weights of `model`: the inverse of `as_sam_model`.

    Its file can be loaded where there is no `keras_sam`, on any backend of Keras. Training one changes the weights of
    both.

    Args:
        model: A functional, Sequential or subclassed model, whether `as_sam_model` has made it or its class has
            `SAMModel` among its bases; or one without SAM.

    Returns:
        An uncompiled model: functional, Sequential, or of the class that stands behind `SAMModel`.

    Raises:
        TypeError: if `model` is not a Keras model, or its class has a body of its own that a plain model would not
            have.
        ValueError: if one of the layers is itself a SAM model.

    Examples:
        >>> import keras, keras_sam
        >>> class Classifier(keras_sam.SAMModel, keras.Sequential):
        ...     pass
        >>> model = Classifier([keras.Input((4,)), keras.layers.Dense(3)])
        >>> plain = keras_sam.as_plain_model(model)
        >>> type(plain) is keras.Sequential, plain.layers[0] is model.layers[0]
        (True, True)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`as_plain_model` takes a Keras model. Received: {model!r} of type {type(model).__name__}.")
    for layer in model._flatten_layers(include_self=False):
        if issubclass(type(layer), SAMModel):
            raise ValueError(
                f"{layer.name!r}, a layer of {model.name!r}, is a SAM model itself, so that the file would need "
                "keras_sam. Only the model that is compiled has to be one: make it of "
                f"`keras_sam.as_plain_model({layer.name})`."
            )
    plain_class = _plain_class(type(model))
    if is_functional(plain_class):
        return functional_twin(keras.Model, model)
    plain = twin_of(plain_class, model)
    for name in ("_sharpness", "_compiled_steps", "_climbs"):
        vars(plain).pop(name, None)
    return plain


def _plain_class(model_class: Any) -> Any:
    """The class that stands behind `SAMModel`, or the class itself where there is none."""
    if not issubclass(model_class, SAMModel):
        return model_class
    order = model_class.__mro__
    behind = order[order.index(SAMModel) + 1]
    built_in = is_functional(behind) or behind is keras.Sequential
    lost = {
        f"`{each.__name__}.{name}`"
        for each in order[: order.index(SAMModel)]
        if each is not Unnamed
        for name in vars(each)
        if _counts(each, name, built_in)
    }
    aside = set(order[order.index(SAMModel) + 1 :]) - set(behind.__mro__)
    if not lost and not aside:
        return behind
    what = ", ".join(sorted(lost | {f"`{each.__name__}`" for each in aside}))
    alone = {True: "`keras.Model(model.input, model.output)`", False: "`keras.Sequential(model.layers)`"}
    raise TypeError(
        f"A plain {behind.__name__} has nothing of what {model_class.__name__} has in {what}. Put that into a class "
        f"without SAM, say `Plain`, and train `class {model_class.__name__}(keras_sam.SAMModel, Plain)`"
        + (f"; or take {alone[is_functional(behind)]} to do without it." if built_in else ".")
    )


def _counts(model_class: Any, name: str, built_in: bool) -> bool:
    """Whether a plain model would miss what the body of the class has under this name."""
    if name == "log_sharpness" or (built_in and name == "__init__"):
        return False
    if name == "compute_loss":  # `SAMModel` lets the running step know the loss there
        inherited = next(vars(each)[name] for each in model_class.__mro__[1:] if name in vars(each))
        return inspect.unwrap(vars(model_class)[name]) is not inspect.unwrap(inherited)
    return not name.startswith("__") or name in ("__init__", "__call__")
