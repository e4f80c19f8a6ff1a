"""JAX: measures of a data-parallel model on four devices, and of the same one on one.

Usage: jax_analysis.py OUT
"""

import sys

import keras
import numpy as np

from keras_sam import analysis
from keras_sam.analysis.objective import MATRICES


def measured():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((5,)), hidden, keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)
    data = {"x": x, "y": y, "batch_size": 12}
    found = [
        *(analysis.hessian_eigenvalues(model, k=1, matrix=m, **data).values for m in MATRICES),
        *(analysis.hessian_trace(model, samples=6, matrix=m, **data).value for m in MATRICES),
        *(analysis.spectral_density(model, probes=2, steps=4, matrix=m, **data).density.max() for m in MATRICES),
        analysis.hessian_diagonal(model, samples=4, **data).values,
        analysis.by_layer(model, measure="top_eigenvalue", steps=4, **data).values,
        analysis.by_layer(model, rho=0.1, **data).values,
        analysis.sharpness(model, rho=0.1, ascent_steps=2, restarts=1, normalize_logits=True, **data),
        analysis.average_sharpness(model, rho=0.1, samples=2, **data).value,
        analysis.loss_landscape(model, points=3, **data).losses,
        analysis.calibration(model, **data).log_likelihood,
        analysis.report(model, k=2, trace_samples=3, points=3, **data).results[model.name]["curvature"].values,
    ]
    return np.concatenate([np.ravel(each) for each in found])


devices = keras.distribution.list_devices()
alone = measured()
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
np.savez(sys.argv[1], alone=alone, parallel=measured(), devices=len(devices))
