"""SAM on several devices with JAX: `fit` under `keras.distribution.DataParallel`.

Uses all accelerators, or four virtual CPU devices where there is none. In several processes, call
`keras.distribution.initialize(...)` first; nothing else changes. For sharded weights use `ModelParallel`.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")  # CPU only

import keras
import numpy as np

import keras_sam

keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))


class Classifier(keras_sam.SAMModel, keras.Sequential):
    """A Sequential that trains with SAM."""


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

# Each device sees its part of a batch; all climb along the gradient of the whole.
history = model.fit(x, y, batch_size=64, epochs=40, verbose=0)
print(f"{len(keras.distribution.list_devices())} devices, train accuracy {history.history['accuracy'][-1]:.3f}")
