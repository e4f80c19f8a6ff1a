"""The sharpness that `fit` logs is the difference of the two losses of each step."""

import keras
import numpy as np
import pytest
import reference
from conftest import SAMSequential

import keras_sam
from keras_sam.models.sharpness import SharpnessReading

RHO = 0.3


def sam(**options):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=RHO, **options)


def by_hand(batches, splits=1, interval=1, accumulation=1):
    """The mean over the steps that climb of the loss at the perturbed weights less that at the weights."""
    loss, w, base, rises = reference.two_layer_loss, reference.TRAJECTORIES["initial"], reference.SGD(), []
    gradients = []
    for step, (x, y) in enumerate(batches):
        mean = 0.0
        for part in zip(np.array_split(x, splits), np.array_split(y, splits), strict=True):
            g = reference.gradient(loss, w, part)
            e = reference.perturbation(w, g, RHO) if step % interval == 0 else 0.0 * w
            if step % interval == 0:
                rises.append((loss(w + e, part) - loss(w, part), len(part[1])))
            mean = mean + reference.gradient(loss, w + e, part) * len(part[1]) / len(y)
        gradients.append(mean)
        if len(gradients) == accumulation:
            w, gradients = base(w, np.mean(gradients, 0)), []
    rises, samples = zip(*rises, strict=True)
    return np.average(rises, weights=samples)


@pytest.fixture
def batches(batches):
    """The last batch is short."""
    return [*batches[:-1], (batches[-1][0][:5], batches[-1][1][:5])]


@pytest.fixture
def fit(two_layer, batches):
    def fit(optimizer, **options):
        x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        model = two_layer(optimizer, metrics=["accuracy"], **options)
        return model.fit(x, y, batch_size=16, shuffle=False, verbose=0, validation_data=(x, y)).history

    return fit


@pytest.mark.parametrize("options", [{}, {"num_batch_splits": 4}, {"interval": 3}], ids=["sam", "splits", "interval"])
def test_equals_the_losses_by_hand(fit, batches, options, quick_mode):
    history = fit(sam(**options), **quick_mode)
    expected = by_hand(batches, splits=options.get("num_batch_splits", 1), interval=options.get("interval", 1))
    assert history["sharpness"] == pytest.approx([expected], abs=2e-6)
    assert expected > 0.05
    assert sorted(history) == ["accuracy", "loss", "sharpness", "val_accuracy", "val_loss"]


def test_with_gradient_accumulation(fit, batches):
    base = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3)
    history = fit(keras_sam.SAMOptimizer(base, rho=RHO))
    assert history["sharpness"] == pytest.approx([by_hand(batches, accumulation=3)], abs=2e-6)


def test_begins_anew_with_each_epoch(two_layer, batches):
    x, y = batches[0]
    model = two_layer(keras_sam.SAMOptimizer(keras.optimizers.SGD(0.0), rho=RHO))
    first, second = model.fit(x, y, epochs=2, verbose=0).history["sharpness"]
    assert first == pytest.approx(by_hand(batches[:1]), abs=1e-6)
    assert second == pytest.approx(first, abs=1e-6)


def test_one_pass_has_none(fit):
    base = keras.optimizers.SGD(0.1)
    for history in (fit(base), fit(keras_sam.MSAMOptimizer(keras.optimizers.SGD(0.1)))):
        assert sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]


def test_can_be_turned_off(batches):
    class Quiet(SAMSequential):
        log_sharpness = False

    model = Quiet([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(sam(), "sparse_categorical_crossentropy")
    assert list(model.fit(*batches[0], verbose=0).history) == ["loss"]


def test_train_on_batch_and_evaluate_return_what_they_do_without(two_layer, batches):
    model = two_layer(sam(), metrics=["accuracy"])
    x, y = batches[0]
    assert len(model.train_on_batch(x, y)) == 2
    assert sorted(model.train_on_batch(x, y, return_dict=True)) == ["accuracy", "loss", "sharpness"]
    assert len(model.evaluate(x, y, verbose=0)) == len(model.test_on_batch(x, y)) == 2
    assert sorted(model.evaluate(x, y, verbose=0, return_dict=True)) == ["accuracy", "loss"]


def test_a_loss_that_is_not_finite_is_left_out():
    reading = SharpnessReading()
    for perturbed in (np.inf, np.nan, 12.0):
        losses = ([0.0, 0.0], [8.0, 4.0], [1.0, 1.0], [1.0 + perturbed, 5.0])
        reading.record(*[[keras.ops.convert_to_tensor(value, "float32") for value in part] for part in losses])
    assert float(reading.metric.result()) == 12 / 4 - 8 / 4


class OwnStep(SAMSequential):
    """Reports its loss by a tracker of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.own = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.own]


def test_a_class_with_metrics_of_its_own_logs_what_it_names(batches):
    model = OwnStep([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(sam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert list(model.fit(*batches[0], verbose=0).history) == ["loss"]
