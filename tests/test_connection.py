"""Curves between solutions: against a closed form, NumPy's batch statistics, and the evaluated loss."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential, weights_of
from keras import layers

import keras_sam
from keras_sam import analysis
from keras_sam.analysis.connection import _shuffled
from keras_sam.analysis.landscape import solutions
from keras_sam.analysis.objective import Objective
from keras_sam.analysis.training_objective import TrainingObjective
from keras_sam.models.batches import Batches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def linear(size, *before):
    """A model whose loss is the mean of (x w)²."""
    model = keras.Sequential([keras.Input((size,)), *before, layers.Dense(1, use_bias=False)])
    model.compile(loss="mse")
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 5)).astype("float32"), rng.integers(0, 3, 50)


@pytest.fixture
def normed():
    """Batch norm, dropout, and a layer that is not trained."""
    model = SAMSequential(
        [
            keras.Input((5,)),
            layers.Dense(5, trainable=False),
            layers.Dense(6, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("tanh"),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3),
        ]
    )
    model.compile(keras_sam.SAMOptimizer("adam"), LOSS, metrics=["accuracy"])
    return model


@pytest.fixture
def ends(normed):
    """Two sets of its weights, with positive ones in place of variances."""
    rng = np.random.default_rng(2)
    return [[np.abs(w + rng.normal(size=w.shape)).astype("float32") for w in normed.get_weights()] for _ in range(2)]


def test_the_middle_of_a_quadratic_is_that_of_the_closed_form():
    """The mean over t of the squared norm of the curve is least at c = -3/4 (a + b), whatever the Hessian."""
    model, rng = linear(3), np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 1))
    x = (np.linalg.qr(rng.normal(size=(20, 3)))[0] * [4, 5, 6]).astype("float32")
    rate = keras.optimizers.schedules.InverseTimeDecay(1.0, 1, 0.1)
    options = {"optimizer": keras.optimizers.SGD(rate), "epochs": 600, "batch_size": 20, "points": 5}
    found = analysis.connect(model, [a], [b], x, np.zeros((20, 1)), **options)
    np.testing.assert_allclose(found.middle, -0.75 * np.ravel(a + b), atol=0.15)
    for i, t in enumerate(found.coordinates):
        for losses, c in ((found.curve, found.middle[:, None]), (found.line, (a + b) / 2)):
            exact = np.mean((x @ ((1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b)) ** 2)
            assert losses[i] == pytest.approx(exact, rel=1e-5)


@pytest.fixture(scope="module")
def digits():
    """Two networks that were trained on digits, and the curve between them."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x[:400] / 16).astype("float32"), y[:400]
    found = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((64,)), layers.Dense(24, activation="relu"), layers.Dense(10)])
        model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
        model.fit(x, y, batch_size=50, epochs=12, verbose=0)
        found.append(model.get_weights())
    optimizer = keras.optimizers.Adam(0.02)
    connection = analysis.connect(model, *found, x, y, optimizer=optimizer, epochs=20, points=9, batch_size=50)
    assert not optimizer.built  # a copy has moved the middle
    return model, found, (x, y), connection


def test_a_curve_goes_around_the_barrier(digits):
    _, _, _, found = digits
    assert found.curve[0] == found.line[0] < 0.2
    assert found.curve[-1] == found.line[-1] < 0.2
    assert found.line.max() > 0.3
    assert found.curve.max() < 0.15


def test_losses_are_those_of_evaluate(digits):
    model, ends, data, found = digits
    for i in (0, 3, 8):
        model.set_weights(found.weights_at(found.coordinates[i], *ends))
        assert found.curve[i] == pytest.approx(model.evaluate(*data, verbose=0, return_dict=True)["loss"], rel=1e-4)
    line = analysis.interpolate(model, *ends, *data, margin=0.0, points=9)
    np.testing.assert_allclose(found.line, line.losses, rtol=1e-5)


def test_statistics_are_those_of_the_data_at_each_point(normed, ends, data):
    x, y = data
    found = analysis.connect(normed, *ends, x, y, epochs=2, points=4, batch_size=30)
    for t, loss in zip(found.coordinates, found.curve, strict=True):
        weights = found.weights_at(t, *ends)
        normed.set_weights(weights)
        kernel0, bias0 = normed.layers[0].get_weights()
        kernel, gamma, beta = normed.layers[1].get_weights() + normed.layers[2].get_weights()[:2]
        hidden = (x @ kernel0 + bias0) @ kernel
        parts = [hidden[:30], hidden[30:]]
        mean, variance = (np.average([f(part, 0) for part in parts], 0, [30, 20]) for f in (np.mean, np.var))
        normed.layers[2].set_weights([gamma, beta, mean, variance])
        assert loss == pytest.approx(normed.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-4)
    assert np.abs(found.line - found.curve).max() > 1e-3
    # What is not trained goes straight.
    np.testing.assert_allclose(kernel0, ends[1][0], rtol=1e-6)
    middle, halfway = found.weights_at(0.5, *ends), [(a + b) / 2 for a, b in zip(*ends, strict=True)]
    moved = [not np.allclose(m, h, atol=1e-6) for m, h in zip(middle, halfway, strict=True)]
    assert moved == [v.trainable for v in normed.weights]


def test_statistics_of_a_frozen_layer_stay(normed, ends, data):
    normed.layers[2].trainable = False
    found = analysis.connect(normed, *ends, *data, epochs=1, points=3, batch_size=50)
    line = analysis.interpolate(normed, *ends, *data, margin=0.0, points=3, batch_size=50)
    np.testing.assert_allclose(found.line, line.losses, rtol=1e-5)


def test_dropout_has_new_masks_in_each_step():
    """With half of the inputs 1 and twice as large, the mean of (w · x)² is (Σ w)² + Σ w²."""
    model = linear(3, layers.Dropout(0.5, seed=0))
    model.set_weights([np.array([[1.0], [2.0], [-4.0]])])
    batches, rng = Batches(np.ones((1, 3)), np.zeros((1, 1))), np.random.default_rng(0)
    objective = TrainingObjective(model, batches, model.trainable_variables)
    ((batch, _),) = batches
    w, slopes = (
        objective.start,
        np.array([objective.training_gradient(objective.start, batch, rng) for _ in range(400)]),
    )
    error = slopes.std(0) / np.sqrt(400)
    assert (np.abs(slopes.mean(0) - (2 * w.sum() + 2 * w)) < 4 * error).all()
    again = objective.training_gradient(w, batch, np.random.default_rng(0))
    np.testing.assert_array_equal(again, slopes[0])


def test_the_same_seed_gives_the_same_curve(normed, ends, data):
    runs = [
        analysis.connect(normed, *ends, *data, epochs=1, points=2, batch_size=50, seed=seed).middle
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v) for v in variables], [
        getattr(layer, "training", None) for layer in model.layers
    ]


def compare(found, expected):
    assert all(np.array_equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    assert found[1] == expected[1]


@pytest.mark.parametrize("calls", [None, 2])
def test_the_model_stays_as_it_was(normed, ends, data, monkeypatch, calls):
    normed.fit(*data, verbose=0)
    before, left, mean = state(normed), [calls], Objective._mean

    def counted(self, *args):
        if calls is not None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return mean(self, *args)

    monkeypatch.setattr(Objective, "_mean", counted)
    if calls is None:
        analysis.connect(normed, *ends, *data, epochs=1, points=2, batch_size=50)
    else:
        with pytest.raises(KeyboardInterrupt):
            analysis.connect(normed, *ends, *data, epochs=2, points=2, batch_size=50)
    compare(state(normed), before)


def test_batches_of_a_data_set(normed, ends, data):
    x, y = data
    batches = [(x[:30], y[:30]), (x[30:], y[30:])]
    found = analysis.connect(normed, *ends, batches, epochs=1, points=3)
    arrays = analysis.connect(normed, *ends, x, y, epochs=1, points=3, batch_size=30)
    np.testing.assert_allclose(found.line, arrays.line, rtol=1e-6)


def test_samples_are_shuffled_with_their_targets():
    batches = Batches({"a": np.arange(9)}, 10 * np.arange(9), batch_size=4)
    parts = [
        (keras.ops.convert_to_numpy(x["a"]), keras.ops.convert_to_numpy(y))
        for (x, y, _), _ in _shuffled(batches, np.random.default_rng(0))
    ]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert (sorted(x), [len(part) for part, _ in parts]) == (list(range(9)), [4, 4, 1])
    assert x.tolist() != list(range(9))
    np.testing.assert_array_equal(y, 10 * x)


def test_bad_input(normed, ends, data):
    for options, message in (
        ({"epochs": 0}, r"`epochs` must be an integer >= 1. Received: epochs=0"),
        ({"points": 1}, r"`points` must be an integer >= 2. Received: points=1"),
        ({"batch_size": 0}, r"`batch_size` must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.connect(normed, *ends, *data, **options)
    with pytest.raises(ValueError, match=r"`weights_b` must have the shapes of `model.get_weights"):
        analysis.connect(normed, ends[0], ends[1][1:], *data)
    with pytest.raises(TypeError, match=r"`optimizer` must take one gradient.*pass its base optimizer. Received"):
        analysis.connect(normed, *ends, *data, optimizer=keras_sam.SAMOptimizer("sgd"))


def test_whole_numbers_come_from_the_first_solution(normed):
    found = analysis.Connection(np.zeros(1), np.zeros(1), np.zeros(1), np.array([4.0, 0.0]))
    floats, counter = found.weights_at(0.5, [np.ones(2, "float32"), np.array(3)], [np.ones(2, "float32"), np.array(5)])
    assert floats.tolist() == [2.5, 0.5]
    assert (floats.dtype, counter) == ("float32", 3)
    assert len(solutions(normed, normed.get_weights(), normed.get_weights())[1]) == len(weights_of(normed))


def test_saved_loaded_and_drawn(tmp_path, capsys):
    model = linear(1)
    found = analysis.connect(
        model, [np.ones((1, 1))], [-np.ones((1, 1))], np.ones((4, 1)), np.ones((4, 1)), epochs=3, points=4, verbose=1
    )
    assert "11/11" in capsys.readouterr().out
    found.save(tmp_path / "connection.npz")
    loaded = analysis.Connection.load(tmp_path / "connection.npz")
    for a, b in zip(loaded.to_dict().values(), found.to_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    ax = analysis.plot_connection(found)
    assert [line.get_label() for line in ax.lines] == ["curve", "straight line"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([found.coordinates, found.curve], 1))
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), found.line)
    named = analysis.plot_connection({"SGD": found, "SAM": found}, ax.figure.add_subplot())
    assert [line.get_label() for line in named.lines[2:]] == ["SAM: curve", "SAM: straight line"]
