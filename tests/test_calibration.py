"""The calibration of a classifier, against scikit-learn, a loop over bins, and models whose calibration is known."""

import keras
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from keras_sam import analysis

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=2.0, size=(50, 4)).astype("float32")
P = np.exp(LOGITS.astype("float64")) / np.exp(LOGITS.astype("float64")).sum(1, keepdims=True)
LABELS = RNG.integers(4, size=50)


def passing(width=4, loss=None):
    """A model that answers with what it is given."""
    model = keras.Sequential([keras.Input((width,)), keras.layers.Identity()])
    if loss is not None:
        model.compile(loss=loss)
    return model


def crossentropy(binary=False):
    kind = keras.losses.BinaryCrossentropy if binary else keras.losses.SparseCategoricalCrossentropy
    return kind(from_logits=True)


def same(one, other, **tolerance):
    for name, value in one.to_dict().items():
        np.testing.assert_allclose(value, getattr(other, name), err_msg=name, **tolerance)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_figures_by_hand(bins):
    found = analysis.calibration(passing(loss=crossentropy()), LOGITS, LABELS, bins=bins)
    assert found.log_likelihood == pytest.approx(-log_loss(LABELS, P), abs=1e-6)
    assert found.brier_score == pytest.approx(np.mean(np.sum((P - np.eye(4)[LABELS]) ** 2, 1)), abs=1e-6)
    assert found.accuracy == np.mean(P.argmax(1) == LABELS)
    order, error, begin = sorted(range(50), key=lambda i: P[i].max()), 0.0, 0
    for index in range(bins):
        size = 50 // bins + (index < 50 % bins)
        part, begin = order[begin : begin + size], begin + size
        confidence, accuracy = np.mean([P[i].max() for i in part]), np.mean([P[i].argmax() == LABELS[i] for i in part])
        assert (found.confidences[index], found.accuracies[index]) == pytest.approx((confidence, accuracy), abs=1e-6)
        assert found.mass[index] == pytest.approx(size / 50)
        error += size / 50 * abs(accuracy - confidence)
    assert found.expected_calibration_error == pytest.approx(error, abs=1e-6)
    assert (found.samples, len(found.mass)) == (50, bins)


def test_a_calibrated_model_and_one_that_is_too_sure():
    p = RNG.dirichlet(np.ones(3), 20_000).astype("float32")
    drawn = np.array([RNG.choice(3, p=each / each.sum()) for each in p.astype("float64")])
    limit = 3 * np.sqrt(15 / 20_000)
    assert analysis.calibration(passing(3), p, drawn, batch_size=5000).expected_calibration_error < limit
    unrelated = RNG.integers(3, size=20_000)  # right one time in three, whatever it says
    found = analysis.calibration(passing(3), p, unrelated, batch_size=5000)
    assert found.expected_calibration_error == pytest.approx(p.max(1).mean() - 1 / 3, abs=limit)


def test_logits_and_probabilities_are_the_same():
    model = passing(loss=crossentropy())
    found = analysis.calibration(model, LOGITS, LABELS)
    same(found, analysis.calibration(passing(), P, LABELS), rtol=1e-5)
    same(found, analysis.calibration(passing(), LOGITS, LABELS, from_logits=True))
    same(found, analysis.calibration(model, LOGITS, LABELS, batch_size=7))
    batches = [(LOGITS[i : i + 7], LABELS[i : i + 7]) for i in range(0, 50, 7)]
    same(found, analysis.calibration(model, batches))


@pytest.mark.parametrize("labels", [LABELS[:, None], np.eye(4)[LABELS]], ids=["column", "one-hot"])
def test_forms_of_labels(labels):
    model = passing(loss=crossentropy())
    same(analysis.calibration(model, LOGITS, labels), analysis.calibration(model, LOGITS, LABELS))


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_one_output_is_the_second_of_two_classes(shape):
    logits, labels = LOGITS[:, :1], RNG.integers(2, size=50)
    found = analysis.calibration(passing(1, crossentropy(binary=True)), logits, labels.reshape(shape))
    p = 1 / (1 + np.exp(-logits[:, 0].astype("float64")))
    assert found.log_likelihood == pytest.approx(-log_loss(labels, p), abs=1e-6)
    assert found.brier_score == pytest.approx(2 * brier_score_loss(labels, p), abs=1e-6)  # of both classes
    assert found.accuracy == np.mean((p > 0.5) == labels)
    same(found, analysis.calibration(passing(1), p[:, None], labels), rtol=1e-5)


def test_weights_count_samples():
    model, weights = passing(loss=crossentropy()), RNG.integers(0, 3, 50)
    found = analysis.calibration(model, [(LOGITS, LABELS, weights)], bins=1)
    repeated = np.repeat(np.arange(50), weights)
    expected = analysis.calibration(model, LOGITS[repeated], LABELS[repeated], bins=1).to_dict() | {"samples": 50}
    same(found, analysis.Calibration(**expected), rtol=1e-6)


def test_a_probability_of_zero_costs_much_but_not_everything():
    found = analysis.calibration(passing(2), np.array([[1.0, 0.0]]), np.array([1]))
    assert -100 < found.log_likelihood < -80
    assert len(found.mass) == 1  # no more bins than samples


def test_nothing_changes():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(4)]
    )
    model.compile("adam", crossentropy(), metrics=["accuracy"])
    model.fit(LOGITS, LABELS, verbose=0)
    loss, accuracy = model.evaluate(LOGITS, LABELS, verbose=0)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    found = analysis.calibration(model, LOGITS, LABELS)
    assert -found.log_likelihood == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy)
    for value, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))


def test_saved_and_loaded(tmp_path):
    found = analysis.calibration(passing(), P, LABELS)
    found.save(tmp_path / "calibration.npz")
    same(found, analysis.Calibration.load(tmp_path / "calibration.npz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS, LABELS), "pass `from_logits=True`. Received: outputs from -"),
        ((P, LABELS + 1), r"from 0 to 3, or one-hot vectors of 4.*Received: shape \(50,\), from 1 to 4"),
        ((P, np.eye(3)[LABELS % 3]), r"Received: shape \(50, 3\)"),
        ((P, None), "There must be labels"),
        (([],), "at least one sample"),
        ((P, LABELS, 0), "`bins` must be an integer >= 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.calibration(passing(), *arguments)


def test_several_outputs_are_refused():
    inputs = keras.Input((4,))
    both = keras.Model(inputs, [keras.layers.Identity()(inputs), keras.layers.Softmax()(inputs)])
    with pytest.raises(ValueError, match=r"one vector, of logits or probabilities.*Received: outputs of shape"):
        analysis.calibration(both, LOGITS, LABELS)
