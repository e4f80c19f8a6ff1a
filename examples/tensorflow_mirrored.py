"""SAM on several devices with TensorFlow: `fit` under MirroredStrategy.

Uses all GPUs, or two logical CPU devices where there is none.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf

if not tf.config.list_physical_devices("GPU"):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import numpy as np

import keras_sam


class Classifier(keras_sam.SAMModel, keras.Sequential):
    """A Sequential that trains with SAM."""


devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
strategy = tf.distribute.MirroredStrategy([device.name for device in devices])

with strategy.scope():  # model and optimizer are made inside
    model = Classifier(
        [keras.Input((20,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    )
    model.compile(
        keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

rng = np.random.default_rng(0)
x = rng.normal(size=(512, 20)).astype("float32")
y = (x[:, 0] * x[:, 1] > 0).astype("int32")
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(512, seed=0).batch(64, drop_remainder=True)

# Each replica sees its part of a batch; all climb along the gradient of the whole.
history = model.fit(dataset, epochs=40, verbose=0)
print(f"{strategy.num_replicas_in_sync} replicas, train accuracy {history.history['accuracy'][-1]:.3f}")
