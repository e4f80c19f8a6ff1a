"""PyTorch: the most memory in use during a training step with SAM and without, and that of the weights, in bytes."""

import keras
import numpy as np
import torch
from keras import layers

import keras_sam


class Network(keras_sam.SAMModel, keras.Sequential):
    """A Sequential that trains with SAM."""


def peak(optimizer):
    model = Network(
        [
            keras.Input((16, 16, 3)),
            *[layers.Conv2D(64, 3, padding="same", activation="relu") for _ in range(5)],
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype("float32"), np.arange(32) % 10
    for _ in range(2):
        model.train_on_batch(x, y)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model.train_on_batch(x, y)
    level = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            highest = max(highest, level)
    weights, held = (
        sum(v.value.nbytes for v in variables)
        for variables in (model.trainable_variables, (*model.trainable_variables, *model.optimizer.variables))
    )
    return held + highest, weights


base = keras.optimizers.SGD(0.1, momentum=0.9)
(sam, weights), (plain, _) = peak(keras_sam.SAMOptimizer(base)), peak(keras.optimizers.SGD(0.1, momentum=0.9))
print(sam, plain, weights)
