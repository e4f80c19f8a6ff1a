"""A hand-written loop with SAM on JAX: stateless, one `jax.jit` for both passes, with batch norm and dropout."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

BATCH, EPOCHS = 64, 15

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split((x / 16).astype("float32"), y, test_size=0.2, random_state=0)

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ]
)
optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), rho=0.1)
optimizer.build(model.trainable_variables)
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def loss_and_others(weights, others, images, labels):
    """The loss, and what becomes of the statistics of batch norm and the random state of dropout."""
    logits, others = model.stateless_call(weights, others, images, training=True)
    return loss_fn(labels, logits), others


differentiate = jax.value_and_grad(loss_and_others, has_aux=True)


@jax.jit
def train_step(weights, others, state, images, labels):
    """One step of SAM; returns the loss at the weights and at the perturbed weights too."""
    (loss, new_others), gradients = differentiate(weights, others, images, labels)
    weights, state = optimizer.stateless_first_step(state, gradients, weights)  # climb
    # From the same `others`: dropout draws the same masks again. What becomes of them is dropped: the statistics of
    # batch norm are to move once, at the weights that are not perturbed.
    (perturbed_loss, _), gradients = differentiate(weights, others, images, labels)
    weights, state = optimizer.stateless_second_step(state, gradients, weights)  # go back, and descend
    return weights, new_others, state, loss, perturbed_loss


weights = [v.value for v in model.trainable_variables]
others = [v.value for v in model.non_trainable_variables]
state = [v.value for v in optimizer.variables]
for epoch in range(EPOCHS):
    losses = []
    for batch in rng.permutation(len(x_train))[: len(x_train) // BATCH * BATCH].reshape(-1, BATCH):
        weights, others, state, *both = train_step(weights, others, state, x_train[batch], y_train[batch])
        losses.append(both)
    loss, perturbed_loss = np.mean(losses, axis=0)
    print(f"epoch {epoch + 1:2}: loss {loss:.4f}")

logits, _ = model.stateless_call(weights, others, x_test, training=False)
accuracy = np.mean(logits.argmax(-1) == y_test)
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {perturbed_loss - loss:.4f}")
