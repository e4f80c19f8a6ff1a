"""Keras's own tests with SAM in front of them: a pytest plugin.

Every model is made one of the class `(SAMModel, its class)` as it is constructed, and the optimizer with which it is
compiled is put into `SAMOptimizer(optimizer, rho=1e-300)`: a radius that is 0 in float32, where a step makes both its
runs and Keras's tests must pass as they are. Those of the optimizers call `apply` by hand, which SAM refuses, as one
gradient is not enough: there it is `first_step` and `second_step` of a SAM optimizer around the one that the test has
made and looks at, both with the same gradient; on JAX `stateless_apply`, too.

So what is seen of a base optimizer from outside, its settings and its state, is not tested here but where a model has
been compiled with it.
"""

import functools
import itertools
import sys
import tomllib
import weakref
from fnmatch import fnmatch
from pathlib import Path

import keras
import pytest
from keras.src import api_export
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import object_registration
from keras.src.trainers.trainer import Trainer

import keras_sam
from keras_sam.backend.running import thread

BACKEND = keras.backend.backend()
EXPECTED = tomllib.loads((Path(__file__).parent / "expected.toml").read_text())["expected"]
EXPECTED = [entry for entry in EXPECTED if BACKEND in entry.get("backends", [BACKEND])]
WITHOUT_SHARPNESS = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--plain", action="store_true", help="run Keras's tests as they are, without SAM")


@pytest.hookimpl(tryfirst=True)  # before any are deselected
def pytest_collection_modifyitems(config, items):
    """Expect of each test what the list says of it; what the list names and there is not is an error."""
    files = {path_of(item).partition("::")[0] for item in items}
    whole = not any("::" in argument for argument in config.args)
    for entry in EXPECTED:
        kind, plain = entry["kind"], config.getoption("plain")
        for pattern in entry["tests"]:
            found = [item for item in items if fnmatch(path_of(item), pattern)]
            if whole and not found and pattern.partition("::")[0] in files:
                raise pytest.UsageError(f"expected.toml names what is not there: {pattern}")
            for item in found:
                if kind == "logs" and not plain:
                    item.stash[WITHOUT_SHARPNESS] = True
                if kind == "keras" or (kind == "sam" and not plain):
                    item.add_marker(pytest.mark.xfail(reason=entry["reason"], strict=True))


def path_of(item):
    """The id by which the list names a test, wherever the package is."""
    file = item.path.relative_to(Path(keras.src.__file__).parent).as_posix()
    return f"{file}::{item.nodeid.partition('::')[2]}"


def skip_if_backend(backend, reason):
    """What Keras's tests import from a `conftest` that is not in the package."""
    return pytest.mark.skipif(backend == BACKEND, reason=reason)


sys.modules["conftest"] = sys.modules[__name__]


def pytest_configure(config):
    if not config.getoption("plain"):
        put_sam_in_front()


def put_sam_in_front():
    construct, compile_ = Trainer.__init__, Trainer.compile

    @functools.wraps(construct)
    def constructed(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        if not isinstance(self, keras_sam.SAMModel):
            self.__class__ = with_sam(type(self))

    @functools.wraps(compile_)
    def compiled(self, optimizer="rmsprop", *args, **kwargs):
        compile_(self, in_sam(optimizer), *args, **kwargs)

    Trainer.__init__, Trainer.compile = constructed, compiled


@functools.cache
def with_sam(cls):
    """The class with SAM, under the name by which Keras saves it and knows it in a file."""
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__", "_unpickle_model")}
    sam = type(cls.__name__, (keras_sam.SAMModel, cls), names)
    for registered in (api_export.REGISTERED_OBJS_TO_NAMES, object_registration.GLOBAL_CUSTOM_NAMES):
        if cls in registered:
            registered[sam] = registered[cls]
    return sam


def in_sam(optimizer):
    optimizer = keras.optimizers.get(optimizer)
    if optimizer is None or isinstance(optimizer, keras_sam.SAMOptimizer):
        return optimizer
    return keras_sam.SAMOptimizer(optimizer, rho=1e-300)


@pytest.fixture(autouse=True)
def _logs(request, monkeypatch):
    """Keep the sharpness out of the logs of which a test knows each."""
    if request.node.stash.get(WITHOUT_SHARPNESS, False):
        monkeypatch.setattr(keras_sam.SAMModel, "log_sharpness", False)


@pytest.fixture(autouse=True)
def _apply_is_two_steps(request, monkeypatch):
    """Put an optimizer that a test of the optimizers applies by hand into a SAM optimizer, for both steps."""
    if request.config.getoption("plain") or request.path.parent.name != "optimizers":
        return
    classes = BaseOptimizer, keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer
    for owner, name in itertools.product(classes, ("apply", "stateless_apply")):
        if name in vars(owner):
            monkeypatch.setattr(owner, name, two_steps(getattr(owner, name)))


around = weakref.WeakKeyDictionary()  # the SAM optimizers, by their base optimizers
inside = []


def two_steps(method):
    @functools.wraps(method)
    def stepped(self, *args, **kwargs):
        if inside or thread.step is not None:  # the base optimizer's own step, or the step of a model
            return method(self, *args, **kwargs)
        inside.append(self)
        try:
            if method.__name__ == "stateless_apply" and BACKEND != "jax":
                return method(self, *args, **kwargs)
            sam = around.setdefault(self, keras_sam.SAMOptimizer(self, rho=1e-300))
            if self.built:
                sam.build(self._trainable_variables)
            return (stateless if method.__name__ == "stateless_apply" else stateful)(sam, *args, **kwargs)
        finally:
            inside.pop()

    return stepped


def stateful(sam, grads, trainable_variables=None):
    sam.first_step(grads, trainable_variables)
    sam.second_step(grads, trainable_variables)


def stateless(sam, optimizer_variables, grads, trainable_variables):
    state = [*optimizer_variables, *(v.value for v in sam.own_variables)]
    weights, state = sam.stateless_first_step(state, grads, trainable_variables)
    weights, state = sam.stateless_second_step(state, grads, weights)
    return weights, state[: len(optimizer_variables)]
