"""Keras callbacks read and write a SAM optimizer as they do any other."""

import csv

import keras
import numpy as np
import pytest
import reference
from conftest import weights_of

import keras_sam

X = np.concatenate(reference.TRAJECTORIES["x"]).astype("float32")
Y = np.concatenate(reference.TRAJECTORIES["y"])
STEPS = 8  # batches of sixteen an epoch


def sgd(learning_rate=0.1, **options):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(learning_rate, **options), rho=0.05)


def train(model, callbacks, epochs=3, x=X, **options):
    return model.fit(
        x, Y, batch_size=16, shuffle=False, epochs=epochs, callbacks=callbacks, verbose=0, **options
    ).history


class Weights(keras.callbacks.Callback):
    """Records the weights after each batch and epoch, and around each evaluation, as it finds them."""

    def __init__(self):
        super().__init__()
        self.batch, self.epoch, self.test_begin, self.test_end = [], [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batch.append(weights_of(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(weights_of(self.model))

    def on_test_begin(self, logs=None):
        self.test_begin.append(weights_of(self.model))

    def on_test_end(self, logs=None):
        self.test_end.append(weights_of(self.model))


def assert_close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_learning_rate_scheduler(two_layer):
    record = Weights()
    model = two_layer(sgd(0.5))
    rates = [0.1, 0.0, 0.02]
    history = train(model, [keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch]), record])
    assert history["learning_rate"] == pytest.approx(rates)
    assert float(model.optimizer.base_optimizer.learning_rate) == pytest.approx(0.02)
    # The first epoch trains at the first rate, the second not at all, the third again.
    once = two_layer(sgd(0.1))
    train(once, [], epochs=1)
    assert_close(record.epoch[0], weights_of(once))
    assert_close(record.epoch[1], record.epoch[0])
    assert np.abs(record.epoch[2] - record.epoch[1]).max() > 1e-3


def test_reduce_lr_on_plateau(two_layer):
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    model = two_layer(sgd(0.1))
    history = train(model, [plateau], epochs=4)
    rates = [0.1, 0.1, 0.05, 0.025]
    assert history["learning_rate"] == pytest.approx(rates)
    assert float(model.optimizer.base_optimizer.learning_rate) == pytest.approx(0.0125)
    scheduled = two_layer(sgd(0.1))
    train(scheduled, [keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])], epochs=4)
    assert_close(weights_of(model), weights_of(scheduled))


def test_early_stopping_restores_the_best_weights(two_layer):
    record = Weights()
    model = two_layer(sgd(0.3, momentum=0.9))
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 3
    history = train(model, [stopping, record], epochs=20, validation_data=(x, y))
    best = int(np.argmin(history["val_loss"]))
    assert len(record.epoch) == best + 3 < 20
    assert np.abs(record.epoch[-1] - record.epoch[best]).max() > 1e-2
    np.testing.assert_array_equal(weights_of(model), record.epoch[best])
    assert model.evaluate(x, y, verbose=0) == pytest.approx(min(history["val_loss"]), abs=1e-6)


def test_swap_ema_weights(two_layer):
    momentum = 0.8
    optimizer = sgd(0.1, use_ema=True, ema_momentum=momentum)
    outside, inside = Weights(), Weights()
    model = two_layer(optimizer)
    callbacks = [outside, keras.callbacks.SwapEMAWeights(), inside]
    history = train(model, callbacks, epochs=2, validation_data=(X, Y))

    average = outside.batch[0]
    averages = [average := momentum * average + (1 - momentum) * w for w in outside.batch]
    assert_close(weights_of(model), averages[-1])  # what training ends with
    for epoch, last in enumerate((STEPS - 1, 2 * STEPS - 1)):
        assert np.abs(averages[last] - outside.batch[last]).max() > 1e-2
        assert_close(outside.test_begin[epoch], outside.batch[last])  # not swapped yet
        assert_close(inside.test_begin[epoch], averages[last])
        assert_close(outside.test_end[epoch], averages[last])  # not swapped back yet
        assert_close(inside.test_end[epoch], outside.batch[last])
        model.set_weights(reference.unflatten(averages[last]))
        assert model.evaluate(X, Y, verbose=0) == pytest.approx(history["val_loss"][epoch], abs=1e-6)


def test_csv_logger(two_layer, tmp_path):
    path = tmp_path / "log.csv"
    model = two_layer(sgd(), metrics=["accuracy"])
    rates = [0.1, 0.05, 0.02]
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    history = train(model, [scheduler, keras.callbacks.CSVLogger(path)], validation_data=(X, Y))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = {"loss", "accuracy", "sharpness", "val_loss", "val_accuracy", "learning_rate"}
    assert set(rows[0]) == {"epoch", *names} == {"epoch", *history}
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for name in names:
        assert [float(row[name]) for row in rows] == pytest.approx(history[name])
    assert history["learning_rate"] == pytest.approx(rates)
    assert history["loss"][-1] < history["loss"][0]


def test_terminate_on_nan(two_layer):
    record = Weights()
    model = two_layer(sgd())
    x = X.copy()
    x[3 * 16] = np.nan  # in the fourth batch
    history = train(model, [keras.callbacks.TerminateOnNaN(), record], x=x)
    assert len(record.batch) == 4
    assert np.isfinite(record.batch[:3]).all()
    assert np.isnan(history["loss"]).tolist() == [True]


@pytest.mark.only("tensorflow")
def test_tensorboard(two_layer, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    import tensorflow as tf

    model = two_layer(sgd())
    rates = [0.1, 0.05, 0.02]
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    history = train(model, [scheduler, board], validation_data=(X, Y))

    def written(run, tag):
        events = accumulator.EventAccumulator(str(tmp_path / run))
        events.Reload()
        return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]

    assert written("train", "epoch_learning_rate") == pytest.approx(rates)
    assert written("train", "epoch_loss") == pytest.approx(history["loss"])
    assert written("validation", "epoch_loss") == pytest.approx(history["val_loss"])
