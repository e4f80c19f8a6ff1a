"""JAX: measures of a data-parallel model on four devices, and of the same one on one.

Usage: jax_analysis.py OUT
"""

import sys

import keras
import numpy as np

from keras_sam import analysis


def measured():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((5,)), hidden, keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)
    return analysis.hessian_trace(model, x, y, samples=2, batch_size=12).value


devices = keras.distribution.list_devices()
alone = measured()
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
np.savez(sys.argv[1], alone=alone, parallel=measured(), devices=len(devices))
