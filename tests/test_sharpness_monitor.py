"""The callback adds its measures to the logs and leaves training as it is."""

import keras
import numpy as np
import pytest
from conftest import weights_of

import keras_sam
from keras_sam import analysis
from keras_sam.callbacks import SharpnessMonitor


def sam():
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.1)


def fit(model, data, *callbacks, epochs=2):
    return model.fit(*data, batch_size=32, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks).history


def test_measures_are_those_of_the_weights_at_the_end_of_the_epoch(noisy_network, classification):
    model, plain = noisy_network(sam()), noisy_network(sam())
    monitor = SharpnessMonitor(*classification, measures=["sharpness", "top_eigenvalue", "hessian_trace"])
    history = fit(model, classification, monitor)
    fit(plain, classification)
    np.testing.assert_array_equal(weights_of(model), weights_of(plain))
    expected = {
        "measured_sharpness": analysis.sharpness(model, *classification),
        "measured_top_eigenvalue": analysis.hessian_eigenvalues(model, *classification, k=1).values[0],
        "measured_hessian_trace": analysis.hessian_trace(model, *classification).value,
    }
    for name, value in expected.items():
        assert len(history[name]) == 2
        assert history[name][1] == pytest.approx(value, rel=1e-4)
        assert history[name][0] != pytest.approx(value, rel=1e-3)


def test_own_measures_every_other_epoch(noisy_network, classification):
    seen = []

    def mean_weight(model, x, y):
        seen.append((len(x), len(y)))
        return float(np.mean(model.get_weights()[0]))

    monitor = SharpnessMonitor(*classification, every=2, measures={"mean_weight": mean_weight})
    history = fit(noisy_network("sgd"), classification, monitor, epochs=5)
    assert len(history["measured_mean_weight"]) == 2
    assert seen == [(96, 96)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` must be an integer >= 1"),
        ({"measures": ["flatness"]}, r"`measures` must be a list of names out of \['hessian_trace'"),
        ({"measures": "sharpness"}, "Received: measures='sharpness'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SharpnessMonitor([], [], **options)
