"""A hand-written loop with SAM on TensorFlow, compiled by `tf.function`.

The second pass runs the model again: with dropout or batch norm it would draw other masks, and move the statistics
twice. `fit` sees to both; see `loop_jax.py` for how a loop can.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

BATCH, EPOCHS = 64, 15

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split((x / 16).astype("float32"), y, test_size=0.2, random_state=0)

model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)])
optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), rho=0.1)
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def loss_and_gradients(images, labels):
    """At the weights as they are now."""
    with tf.GradientTape() as tape:
        loss = loss_fn(labels, model(images, training=True))
    return loss, tape.gradient(loss, model.trainable_variables)


@tf.function
def train_step(images, labels):
    """One step of SAM; returns the loss at the weights and at the perturbed weights."""
    loss, gradients = loss_and_gradients(images, labels)
    optimizer.first_step(gradients, model.trainable_variables)  # climb
    perturbed_loss, gradients = loss_and_gradients(images, labels)
    optimizer.second_step(gradients, model.trainable_variables)  # go back, and descend
    return loss, perturbed_loss


dataset = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(len(x_train), seed=0)
for epoch in range(EPOCHS):
    losses = np.array([train_step(images, labels) for images, labels in dataset.batch(BATCH, drop_remainder=True)])
    loss, perturbed_loss = losses.mean(axis=0)
    print(f"epoch {epoch + 1:2}: loss {loss:.4f}")

accuracy = np.mean(np.argmax(model(x_test), axis=-1) == y_test)
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {perturbed_loss - loss:.4f}")
