"""SAM for a model that exists already."""

import warnings
from typing import Any

import keras

from keras_sam.models.sam_model import SAMModel
from keras_sam.models.twin import functional_twin, is_functional, twin_of


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMFunctional(SAMModel, keras.Model):
    """A functional model that trains with SAM."""


@keras.saving.register_keras_serializable(package="keras_sam")
class SAMSequential(SAMModel, keras.Sequential):
    """A Sequential model that trains with SAM."""


class Unnamed:
    """A model whose class was made by `as_sam_model`, so that Keras will not find it when it loads a file."""

    def get_compile_config(self) -> Any:
        """What Keras writes of `compile` into a file; called for each file that has the model's class in it."""
        name = type(self).__name__
        if keras.saving.get_registered_object(keras.saving.get_registered_name(type(self))) is None:
            plain = type(self).__mro__[type(self).__mro__.index(SAMModel) + 1].__name__
            warnings.warn(
                f"No file of {name} can be loaded, as `as_sam_model` has made this class. To hand the model on, save "
                "`keras_sam.as_plain_model(model)`. To go on training from the file, declare "
                f"`class {name}(keras_sam.SAMModel, {plain})` and make the model of that; or save and load its "
                "weights, by `save_weights`.",
                stacklevel=2,
            )
        return super().get_compile_config()  # type: ignore[misc]


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
    if is_functional(type(model)):
        return functional_twin(SAMFunctional, model)
    return twin_of(SAMSequential if type(model) is keras.Sequential else _sam_class(type(model)), model)


def _sam_class(model_class: Any) -> Any:
    return type(f"SAM{model_class.__name__}", (Unnamed, SAMModel, model_class), {"__module__": model_class.__module__})
