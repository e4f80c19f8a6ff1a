"""With a radius of zero, and with any other optimizer, the model trains exactly as Keras trains it without SAM."""

import keras
import numpy as np
import pytest
from conftest import NOTHING

import keras_sam

optimizers = keras.optimizers
BASES = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: optimizers.Adam(0.02),
    "adamw_global_clipnorm": lambda: optimizers.AdamW(0.02, weight_decay=0.1, global_clipnorm=0.3),
    "rmsprop_ema": lambda: optimizers.RMSprop(0.01, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=5),
    "lion_clipvalue": lambda: optimizers.Lion(0.01, clipvalue=0.02),
    "adafactor": lambda: optimizers.Adafactor(0.05),
    "lamb": lambda: optimizers.Lamb(0.02),
    "muon": lambda: optimizers.Muon(0.02),
    "accumulation": lambda: optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
    "cosine_schedule": lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.2, 10), momentum=0.9),
    "clipnorm": lambda: optimizers.SGD(0.2, momentum=0.9, clipnorm=0.1),
}


def plain_twin(model, optimizer, **compile_options):
    """A `keras.Sequential` with the layers, weights and seeds of `model`, and without SAM."""
    twin = keras.Sequential.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    twin.compile(optimizer, loss=model.loss, metrics=["accuracy"], **compile_options)
    return twin


def fit(model, classification, epochs=3, **fit_options):
    return model.fit(*classification, batch_size=24, epochs=epochs, shuffle=False, verbose=0, **fit_options).history


def state(variables):
    return {f"{index} {v.path}": keras.ops.convert_to_numpy(v) for index, v in enumerate(variables)}


def assert_same(found, expected, tolerance):
    assert len(found) == len(expected)
    for (name, a), b in zip(found.items(), expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)


def assert_trains_alike(model, twin, classification, tolerance=1e-6, **fit_options):
    """`fit` both and compare logs, weights, batch-norm statistics, seeds and the base optimizers' variables."""
    before = model.get_weights()
    found, expected = fit(model, classification, **fit_options), fit(twin, classification, **fit_options)
    for rise in found.pop("sharpness", []):  # logged by SAM only
        assert rise == pytest.approx(0.0, abs=tolerance)
    assert found.keys() == expected.keys() >= {"loss", "accuracy"}
    assert_same(found, expected, tolerance)
    assert all((a != b).any() for a, b in zip(model.get_weights(), before, strict=True))
    assert any("seed" in v.path for v in model.variables)
    assert_same(state(model.variables), state(twin.variables), tolerance)
    base = getattr(model.optimizer, "base_optimizer", model.optimizer)
    assert_same(state(base.variables), state(twin.optimizer.variables), tolerance)


@pytest.mark.parametrize(
    "base", [name for name in BASES if name not in ("adam", "clipnorm", "momentum")]
)  # those are below
def test_zero_radius_is_the_base_optimizer(noisy_network, classification, base):
    model = noisy_network(keras_sam.SAMOptimizer(BASES[base](), rho=NOTHING))
    assert_trains_alike(model, plain_twin(model, BASES[base]()), classification)


def test_zero_radius_in_each_mode(noisy_network, classification, quick_mode):
    model = noisy_network(keras_sam.SAMOptimizer(BASES["momentum"](), rho=NOTHING), **quick_mode)
    assert_trains_alike(model, plain_twin(model, BASES["momentum"](), **quick_mode), classification, epochs=1)


def test_zero_radius_with_validation(noisy_network, classification):
    model = noisy_network(keras_sam.SAMOptimizer(BASES["adam"](), rho=NOTHING))
    twin = plain_twin(model, BASES["adam"]())
    assert_trains_alike(model, twin, classification, validation_data=classification)


def test_zero_radius_with_a_stateful_layer():
    """Its state goes on from batch to batch, by one pass."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 5, 4)).astype("float32"), rng.normal(size=(32, 1)).astype("float32")
    inputs = keras.Input(batch_shape=(8, 5, 4))
    recurrent = keras.layers.SimpleRNN(3, stateful=True)
    twin = keras.Model(inputs, keras.layers.Dense(1)(recurrent(inputs)))
    start, found = twin.get_weights(), []
    for model, optimizer in (
        (keras_sam.as_sam_model(twin), keras_sam.SAMOptimizer(BASES["momentum"](), rho=NOTHING)),
        (twin, BASES["momentum"]()),
    ):
        model.set_weights(start)
        recurrent.reset_state()
        model.compile(optimizer, loss="mse")
        loss = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        found.append([*loss, *map(keras.ops.convert_to_numpy, [*model.weights, *recurrent.states])])
    for sam, base in zip(*found, strict=True):
        np.testing.assert_allclose(sam, base, rtol=0, atol=1e-6)


def test_zero_radius_applies_the_weight_constraints(noisy_network, classification):
    model = noisy_network(keras_sam.SAMOptimizer(BASES["clipnorm"](), rho=NOTHING, adaptive=True))
    twin = plain_twin(model, BASES["clipnorm"]())
    for either in (model, twin):
        either.layers[0].kernel.constraint = keras.constraints.MaxNorm(0.7)
        either.layers[-1].kernel.constraint = keras.constraints.NonNeg()
    assert_trains_alike(model, twin, classification)
    assert np.linalg.norm(model.get_weights()[0], axis=0).max() == pytest.approx(0.7, abs=1e-5)
    assert model.layers[-1].kernel.numpy().min() == 0


def test_constraints_hold_after_a_step_with_a_radius(noisy_network, classification):
    model = noisy_network(keras_sam.SAMOptimizer(BASES["momentum"](), rho=0.5))
    model.layers[0].kernel.constraint = keras.constraints.UnitNorm()
    fit(model, classification)
    np.testing.assert_allclose(np.linalg.norm(model.get_weights()[0], axis=0), 1.0, atol=1e-5)


def test_an_ordinary_optimizer_trains_as_without_sam(noisy_network, classification):
    model = noisy_network(BASES["rmsprop_ema"]())
    assert_trains_alike(model, plain_twin(model, BASES["rmsprop_ema"]()), classification, tolerance=0)


def test_a_radius_makes_a_difference(noisy_network, classification):
    """The comparisons above could not pass on a network that SAM does not change."""
    model = noisy_network(keras_sam.SAMOptimizer(BASES["momentum"](), rho=0.1))
    twin = plain_twin(model, BASES["momentum"]())
    assert fit(model, classification)["loss"] != pytest.approx(fit(twin, classification)["loss"], abs=1e-3)
