"""SAM with Adam on several time series at once: the next day from the four days before, with a small transformer.

    python examples/time_series.py [ETTh1.csv]

The transformer is SAMformer (arXiv 2402.10198), whose attention goes over the channels. Without a file the series are
made up, with a daily and a weekly rhythm. ETTh1.csv is at https://github.com/zhouhaoyi/ETDataset. SAMformer's own
set-up, 512 hours to forecast 96 and more on all of that file, is measured in the project's `docs/evidence.md`.
"""

import sys

import keras
import numpy as np
from keras import layers, ops

import keras_sam

HOURS, AHEAD, CHANNELS = 96, 24, 7
keras.utils.set_random_seed(0)


def made_up(hours):
    """Noisy series with a daily and a weekly rhythm, whose level drifts."""
    rng, time = np.random.default_rng(0), np.arange(hours)[:, None]
    daily, weekly = (
        rng.uniform(0.5, 1.5, CHANNELS) * np.sin(2 * np.pi * (time / period + rng.random(CHANNELS)))
        for period in (24, 168)
    )
    return daily + weekly + np.cumsum(0.05 * rng.normal(size=daily.shape), 0) + 0.3 * rng.normal(size=daily.shape)


def windows(values):
    """All stretches of `HOURS` and the `AHEAD` hours that follow each: arrays of `(stretches, hours, channels)`."""
    both = np.lib.stride_tricks.sliding_window_view(values, HOURS + AHEAD, axis=0).swapaxes(1, 2)
    return both[:, :HOURS], both[:, HOURS:]


class SAMformer(keras_sam.SAMModel, keras.Model):
    """Normalizes each window by itself, lets the channels attend to each other, and scales the forecast back."""

    def __init__(self):
        super().__init__()
        self.keys, self.queries, self.values = layers.Dense(16), layers.Dense(16), layers.Dense(HOURS)
        self.forecast = layers.Dense(AHEAD)

    def call(self, x):
        """From `(batch, HOURS, channels)` to `(batch, AHEAD, channels)`."""
        mean, deviation = ops.mean(x, 1, keepdims=True), ops.std(x, 1, keepdims=True) + 1e-3
        z = ops.transpose((x - mean) / deviation, (0, 2, 1))
        attention = ops.softmax(ops.matmul(self.queries(z), ops.transpose(self.keys(z), (0, 2, 1))) / 4)
        z = self.forecast(z + ops.matmul(attention, self.values(z)))
        return ops.transpose(z, (0, 2, 1)) * deviation + mean


if len(sys.argv) > 1:
    series = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1, usecols=range(1, 1 + CHANNELS), max_rows=3000)
else:
    series = made_up(3000)
series = ((series - series[:2400].mean(0)) / series[:2400].std(0)).astype("float32")
(x_train, y_train), (x_test, y_test) = windows(series[:2400]), windows(series[2400 - HOURS :])

EPOCHS = 5
model = SAMformer()
# A transformer wants a large radius, which rises over the first quarter of the training.
optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.001), rho=keras_sam.RhoWarmup(0.7, warmup=0.25))
model.compile(optimizer, loss="mse")
history = model.fit(x_train, y_train, batch_size=32, epochs=EPOCHS, verbose=0).history

error = model.evaluate(x_test, y_test, batch_size=256, verbose=0)
error_of_mean = np.mean((x_test.mean(1, keepdims=True) - y_test) ** 2)
print(f"test error {error:.3f}, of the mean of the days before {error_of_mean:.3f}")
print(f"{len(x_test)} test windows, R2 {1 - error / error_of_mean:.3f}, sharpness {history['sharpness'][-1]:.4f}")
