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
if_equal(numbers, data, message)
                               the data, if the running graph finds the numbers equal; on TensorFlow only
differentiate(loss)            its value, gradient and Hessian-vector product, as compiled functions
"""

import importlib
from typing import Any

import keras

_NAMES = ("jax", "tensorflow", "torch")

if keras.backend.backend() not in _NAMES:
    raise ImportError(
        f"keras_sam runs on the Keras backends {', '.join(_NAMES)}: set the environment variable KERAS_BACKEND, "
        f"or `backend` in keras.json, to one of them. Received: {keras.backend.backend()!r}."
    )

_module = importlib.import_module(f"keras_sam.backend.{keras.backend.backend()}")

synchronize = _module.synchronize
values = _module.values
assign = _module.assign
cast = _module.cast
share = _module.share
global_norm = _module.global_norm
select = _module.select
weighted_sum = _module.weighted_sum
displace = _module.displace
replace = _module.replace
sam_step = _module.sam_step
differentiate = _module.differentiate
if_equal: Any = getattr(_module, "if_equal", None)
