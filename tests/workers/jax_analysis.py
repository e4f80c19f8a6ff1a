"""JAX: measures of a model on one device, or data-parallel on four.

Usage: jax_analysis.py MODE OUT
"""

import sys

import keras
import numpy as np

from keras_sam import analysis

mode, out = sys.argv[1:3]
devices = keras.distribution.list_devices()
if mode == "data":
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
keras.utils.set_random_seed(0)
norm, hidden = keras.layers.BatchNormalization(), keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")
model = keras.Sequential([keras.Input((5,)), hidden, norm, keras.layers.Dense(3)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)
model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
measures = [
    analysis.sharpness(model, x, y, batch_size=7),
    *(analysis.hessian_trace(model, x, y, samples=2, matrix=m).value for m in ("hessian", "gauss_newton", "fisher")),
]
np.savez(out, measures=measures, devices=len(devices))
