"""A hand-written loop with SAM on PyTorch.

The second pass runs the model again: with dropout or batch norm it would draw other masks, and move the statistics
twice. `fit` sees to both; see `loop_jax.py` for how a loop can.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

BATCH, EPOCHS = 64, 15

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split((x / 16).astype("float32"), y, test_size=0.2, random_state=0)

model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)])
optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), rho=0.1)


def loss_and_gradients(images, labels):
    """At the weights as they are now."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images, training=True), labels)
    loss.backward()
    return loss.item(), [v.value.grad for v in model.trainable_variables]


def train_step(images, labels):
    """One step of SAM; returns the loss at the weights and at the perturbed weights."""
    loss, gradients = loss_and_gradients(images, labels)
    optimizer.first_step(gradients, model.trainable_variables)  # climb
    perturbed_loss, gradients = loss_and_gradients(images, labels)
    optimizer.second_step(gradients, model.trainable_variables)  # go back, and descend
    return loss, perturbed_loss


device = model.trainable_variables[0].value.device  # Keras uses a GPU if there is one
dataset = torch.utils.data.TensorDataset(torch.from_numpy(x_train).to(device), torch.from_numpy(y_train).to(device))
for epoch in range(EPOCHS):
    batches = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, drop_last=True)
    loss, perturbed_loss = np.mean([train_step(images, labels) for images, labels in batches], axis=0)
    print(f"epoch {epoch + 1:2}: loss {loss:.4f}")

accuracy = np.mean(keras.ops.convert_to_numpy(model(x_test)).argmax(-1) == y_test)
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {perturbed_loss - loss:.4f}")
