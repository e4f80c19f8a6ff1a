"""What Keras has no public call for: one module a backend, the same few functions in each.

synchronize(gradients)         dense gradients, summed over the replicas of a distributed step
values(variables)              their tensors, detached from any automatic differentiation
assign(variables, values)      on every replica
cast(tensors, dtype)           of that dtype
share(gradient)                a replica's part of a synchronized gradient, to be summed over them again
global_norm(tensors)           Euclidean norm over all of them
select(condition, yes, no)     one list of tensors or the other
weighted_sum(a, x, b, y)       a * x + b * y for each pair of tensors
displace(variables, slots, directions, length, finite)
                               move each variable along its direction, and keep what was added in its slot
replace(variables, slots)      take it back
sam_step(model, run, *args)    make a training step, of which `run` is the user's own: see `running.py`
make_train_function(model, make, force)
                               let Keras make the function that trains, with the choice between steps where it belongs
if_equal(numbers, data, message)
                               the data, if the running graph finds the numbers equal; on TensorFlow only
derivatives                    of functions of the weights: a package of its own
"""

import importlib
import types
from typing import Any, NoReturn

import keras

_NAMES = ("jax", "tensorflow", "torch")

can_train = keras.backend.backend() in _NAMES  # on others a model can be loaded and used


def refuse(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise what there is to say on a backend that knows no gradients."""
    raise RuntimeError(
        f"keras_sam runs on the Keras backends {', '.join(_NAMES)}: set the environment variable KERAS_BACKEND, "
        f"or `backend` in keras.json, to one of them. Received: {keras.backend.backend()!r}, on which a model can "
        "be loaded and used, but neither trained nor measured."
    )


_NAME = keras.backend.backend()
_module = importlib.import_module(f"keras_sam.backend.{_NAME}") if can_train else None


def _of_backend(name: str) -> Any:
    return getattr(_module, name) if can_train else refuse


synchronize = _of_backend("synchronize")
values = _of_backend("values")
assign = _of_backend("assign")
cast = _of_backend("cast")
share = _of_backend("share")
global_norm = _of_backend("global_norm")
select = _of_backend("select")
weighted_sum = _of_backend("weighted_sum")
displace = _of_backend("displace")
replace = _of_backend("replace")
sam_step = _of_backend("sam_step")
make_train_function = _of_backend("make_train_function")
if_equal: Any = getattr(_module, "if_equal", None)
derivatives: Any = (
    importlib.import_module(f"keras_sam.backend.derivatives.{_NAME}")
    if can_train
    else types.SimpleNamespace(differentiate=refuse)  # with which everything begins
)
