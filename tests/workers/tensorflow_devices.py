"""TensorFlow: `fit` or a custom loop on one or more logical devices, or on one device in each of several processes.

Usage: tensorflow_devices.py fit|loop DEVICES OUT [PROCESS PORT...]
"""

import json
import os
import sys

import tensorflow as tf

mode, count, out, *cluster = sys.argv[1:]
count = int(count)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
if cluster:
    process, *ports = map(int, cluster)
    workers = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": workers, "task": {"type": "worker", "index": process}})
    processes = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else runs

import keras  # noqa: E402
import numpy as np  # noqa: E402
import problem  # noqa: E402

if cluster:
    strategy = processes
elif count > 1:
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
else:
    strategy = tf.distribute.get_strategy()
dataset = tf.data.Dataset.from_tensor_slices(problem.data()).batch(problem.BATCH)
with strategy.scope():
    optimizer = problem.optimizer()
    model = problem.network(optimizer)

if mode == "fit":
    model.fit(dataset, verbose=0)
else:
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    with strategy.scope():
        optimizer.build(model.trainable_variables)

    def gradients(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(loss_fn(y, model(x, training=True))) / problem.BATCH
        return tape.gradient(loss, model.trainable_variables)

    def replica_step(x, y):
        ascent = gradients(x, y) if optimizer.ascent_needs_gradient else None
        optimizer.first_step(ascent, model.trainable_variables)
        optimizer.second_step(gradients(x, y), model.trainable_variables)

    @tf.function
    def train_step(x, y):
        strategy.run(replica_step, args=(x, y))

    for x, y in strategy.experimental_distribute_dataset(dataset):
        train_step(x, y)

replicas = [[c.numpy() for c in strategy.experimental_local_results(v.value)] for v in model.trainable_variables]
problem.save(
    out,
    [replica[0] for replica in replicas],
    replicas=[len(replica) for replica in replicas],
    equal=all(np.array_equal(replica[0], other) for replica in replicas for other in replica),
    iterations=strategy.experimental_local_results(optimizer.iterations.value)[0].numpy(),
)
