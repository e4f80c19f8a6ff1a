"""Fine-tuning with SAM: a network that knows the digits 0 to 4 learns 5 to 9 from 100 examples.

First only a new head is trained, on frozen layers; then all, with a lower learning rate.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

keras.utils.set_random_seed(0)

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
known = y < 5
x_train, x_test, y_train, y_test = train_test_split(
    x[~known], y[~known] - 5, train_size=100, stratify=y[~known], random_state=0
)

base = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(128, activation="relu") for _ in range(2))])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(model, learning_rate, epochs, x, y):
    """Compile and train; returns the sharpness in the last epoch."""
    # Compile after every change of `trainable`, with a new optimizer: it holds one slot for each weight it perturbs.
    optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(learning_rate), rho=0.05)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model.fit(x, y, batch_size=32, epochs=epochs, verbose=0).history["sharpness"][-1]


# What came before: all layers are trained on the digits 0 to 4.
train(keras_sam.as_sam_model(keras.Sequential([base, keras.layers.Dense(5)])), 0.001, 10, x[known], y[known])

# Frozen layers are neither trained nor perturbed, and do not count in the norm of the gradient: the whole of `rho`
# goes to the head. What SAM flattens is the loss as a function of the head alone, and it holds no slots for the rest.
model = keras_sam.as_sam_model(keras.Sequential([base, keras.layers.Dense(5)]))
base.trainable = False
train(model, 0.01, 20, x_train, y_train)
frozen = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]

# Now the same `rho` is shared by all weights. (Batch norm would keep the mode it has as a frozen layer only while it
# is frozen; keep it so, if the new data are too few for statistics.)
base.trainable = True
sharpness = train(model, 0.001, 20, x_train, y_train)
accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]

print(f"test accuracy with frozen layers {frozen:.3f}")
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {sharpness:.4f}")
