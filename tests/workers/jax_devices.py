"""JAX: `fit` on one device, data-parallel or model-parallel on four, or data-parallel in two processes.

Usage: jax_devices.py MODE OUT [PROCESS PORT...]
"""

import sys

mode, out = sys.argv[1:3]

import jax  # noqa: E402

if mode == "processes":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import problem  # noqa: E402

if mode == "processes":
    process, port = sys.argv[3:5]
    keras.distribution.initialize(f"127.0.0.1:{port}", 2, int(process))

devices = keras.distribution.list_devices()
distribution = None
if mode in ("data", "processes"):
    distribution = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
elif mode == "model":
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*hidden/kernel"], layout[".*hidden/bias"] = (None, "model"), ("model",)
    layout[".*out/kernel"] = ("model", None)
    distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
if distribution is not None:
    keras.distribution.set_distribution(distribution)

model = problem.network(problem.optimizer())
x, y = problem.data()
size = problem.BATCH
if mode == "processes":  # each process feeds its half of every batch
    size //= 2
    halves = np.arange(len(x)).reshape(-1, 2, size)[:, int(process)].ravel()
    x, y = x[halves], y[halves]
model.fit(x, y, batch_size=size, shuffle=False, verbose=0)

for variable, slot in zip(model.trainable_variables, model.optimizer.perturbations, strict=True):
    assert variable.value.sharding.is_equivalent_to(slot.value.sharding, len(variable.shape)), variable.path
kernel = model.trainable_variables[0].value
shards = [np.asarray(shard.data) for shard in kernel.addressable_shards]
problem.save(
    out,
    [v.value for v in model.trainable_variables],
    shard_shape=shards[0].shape,
    shards_equal=all(np.array_equal(shards[0], shard) for shard in shards),
    devices=len(devices),
)
