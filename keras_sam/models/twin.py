"""A second model of another class with the layers, the weights and all else of a model that exists already."""

import functools
import inspect
import types
import weakref
from typing import Any

import keras

# What a model has from `compile` and from training, and its twin begins without.
_UNCOMPILED = {
    "compiled": False,
    "optimizer": None,
    "loss": None,
    "train_function": None,
    "test_function": None,
    "predict_function": None,
}


def is_functional(model_class: Any) -> bool:
    """Whether this is Keras's own class of functional models, for which it has no public name."""
    return bool(model_class.__name__ == "Functional" and model_class.__module__.startswith("keras."))


def functional_twin(model_class: Any, model: keras.Model) -> keras.Model:
    """A functional model of `model_class` with the graph of `model`."""
    twin = model_class(model.input, model.output, name=model.name)
    twin.dtype_policy = model.dtype_policy
    for name in {"_trainable", "_distribute_strategy"} & vars(model).keys():  # a setter would change the layers too
        vars(twin)[name] = vars(model)[name]
    return twin


def twin_of(model_class: Any, model: keras.Model) -> keras.Model:
    """An uncompiled object of `model_class` with the attributes of `model`, as its constructor may take anything."""
    twin = model_class.__new__(model_class)
    own = {name: value for name, value in vars(twin).items() if callable(value)}  # bound to the twin itself
    vars(twin).update({name: _rebound(value, model, twin) for name, value in vars(model).items()} | own)
    vars(twin).update(_UNCOMPILED)
    _build_together(model, twin)
    return twin


def _build_together(model: keras.Model, twin: keras.Model) -> None:
    """Give what `build` makes of one of them, weights and layers, to the other."""
    family = vars(model).get("_built_together")
    if family is None:
        family = vars(model)["_built_together"] = weakref.WeakSet()
    vars(twin)["_built_together"] = family
    for member in (model, twin):
        if member not in family:
            family.add(member)
            vars(member)["build"] = _shared_build(member, vars(member)["build"], family)


def _shared_build(model: keras.Model, build: Any, family: Any) -> Any:
    @functools.wraps(build)
    def shared_build(*args: Any, **kwargs: Any) -> None:
        before = dict(vars(model))
        build(*args, **kwargs)
        made = {name: v for name, v in vars(model).items() if name not in before or v is not before[name]}
        for other in family:
            if other is not model:
                vars(other).update({name: _rebound(value, model, other) for name, value in made.items()})

    return shared_build


def _rebound(value: Any, model: keras.Model, twin: keras.Model) -> Any:
    """A method of `model` that it keeps as an attribute, or among others in one, as a method of its twin."""
    if inspect.ismethod(value) and value.__self__ is model:
        own = getattr(twin, value.__name__, None)  # which lets the running step know the loss, if that is the method
        same = inspect.ismethod(own) and inspect.unwrap(own.__func__) is inspect.unwrap(value.__func__)
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
