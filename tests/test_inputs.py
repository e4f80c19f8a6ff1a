"""Whatever `fit` takes its batches from, it trains as from NumPy arrays."""

import keras
import numpy as np
import pytest
import reference
from conftest import SAMSequential, weights_of

import keras_sam

SIZE, EPOCHS = 16, 2
X = np.concatenate(reference.TRAJECTORIES["x"])[:72].astype("float32")  # the last batch is smaller
Y = np.concatenate(reference.TRAJECTORIES["y"])[:72].astype("int32")
WEIGHTS = np.random.default_rng(5).uniform(0.1, 3.0, size=len(X)).astype("float32")


def batches(arrays):
    """The batches of an epoch."""
    return [tuple(a[i : i + SIZE] for a in arrays) for i in range(0, len(X), SIZE)]


def make_model():
    model = SAMSequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
    model.set_weights(reference.unflatten(reference.TRAJECTORIES["initial"]))
    optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, weighted_metrics=["accuracy"])
    return model


def train(**data):
    """The trained weights, and the losses and metrics."""
    model = make_model()
    history = model.fit(**data, epochs=EPOCHS, shuffle=False, verbose=0).history
    assert int(model.optimizer.iterations) == EPOCHS * len(batches([X]))
    return weights_of(model), history


@pytest.fixture(scope="module", params=[(X, Y), (X, Y, WEIGHTS)], ids=["x y", "x y weight"])
def arrays(request):
    return request.param


@pytest.fixture(scope="module")
def from_numpy(arrays):
    return train(**dict(zip(("x", "y", "sample_weight"), arrays, strict=False)), batch_size=SIZE)


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays):
        super().__init__()
        self.batches = batches(arrays)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


# The ways to give batches to `fit`.


def py_dataset(arrays):
    return {"x": Batches(arrays)}


def generator(arrays):
    return {"x": (batch for batch in batches(arrays) * EPOCHS), "steps_per_epoch": len(batches(arrays))}


def tf_data(arrays):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices(arrays).batch(SIZE).prefetch(1)}


def data_loader(arrays):
    import torch

    dataset = torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays))
    return {"x": torch.utils.data.DataLoader(dataset, batch_size=SIZE)}


@pytest.mark.parametrize(
    "source",
    [
        py_dataset,
        generator,
        pytest.param(tf_data, marks=pytest.mark.only("tensorflow")),
        pytest.param(data_loader, marks=pytest.mark.only("torch")),
    ],
)
def test_trains_as_from_numpy(arrays, from_numpy, source):
    weights, history = train(**source(arrays))
    expected_weights, expected_history = from_numpy
    np.testing.assert_allclose(weights, expected_weights, rtol=0, atol=1e-6)
    assert set(history) == {"loss", "accuracy", "sharpness"}
    for name, values in expected_history.items():
        assert history[name] == pytest.approx(values, abs=1e-6)


def test_one_batch_at_a_time_trains_as_from_numpy(arrays, from_numpy):
    model = make_model()
    for _ in range(EPOCHS):
        for batch in batches(arrays):
            model.train_on_batch(*batch)
    np.testing.assert_allclose(weights_of(model), from_numpy[0], rtol=0, atol=1e-6)


def test_numpy_takes_the_published_steps():
    """So that the others are compared with something."""
    model = make_model()
    model.fit(X[:64], Y[:64], batch_size=SIZE, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(model), reference.TRAJECTORIES["sam/weights"][3], rtol=0, atol=2e-5)
