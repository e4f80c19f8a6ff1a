"""SAM with Adam on a table: how far diabetes progressed in a year, from ten measurements of a patient."""

import keras
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import keras_sam

keras.utils.set_random_seed(0)

x, y = load_diabetes(return_X_y=True, scaled=False)  # in their own units: years, mg/dl, ...
x_train, x_test, y_train, y_test = train_test_split(x.astype("float32"), y.astype("float32"), random_state=0)

normalization = keras.layers.Normalization()
normalization.adapt(x_train)  # its mean and variance are not trained, so SAM does not perturb them
inputs = keras.Input((10,))
hidden = keras.layers.Dense(64, activation="relu")(normalization(inputs))
hidden = keras.layers.Dense(64, activation="relu")(hidden)
outputs = keras.layers.Dense(1)(hidden)


class Regressor(keras_sam.SAMModel, keras.Model):
    """A functional model that trains with SAM."""


model = Regressor(inputs, outputs)
# Few patients and much noise want a large radius.
model.compile(keras_sam.SAMOptimizer(keras.optimizers.Adam(0.002), rho=0.5), loss="mse")

# The loss is of standardized targets, so that neither the learning rate nor rho depends on their unit.
mean, deviation = y_train.mean(), y_train.std()
history = model.fit(x_train, (y_train - mean) / deviation, batch_size=32, epochs=20, verbose=0).history

predicted = mean + deviation * model.predict(x_test, verbose=0)[:, 0]
error = np.sqrt(np.mean((predicted - y_test) ** 2))
error_of_mean = np.sqrt(np.mean((mean - y_test) ** 2))
print(f"test error {error:.1f}, of always predicting the mean {error_of_mean:.1f}")
r2 = 1 - (error / error_of_mean) ** 2
print(f"{len(y_test)} test patients, R2 {r2:.3f}, sharpness {history['sharpness'][-1]:.4f}")
