"""Predictions with weights from the posterior: what is drawn, and that the model is as before afterwards."""

import itertools

import keras
import numpy as np
import pytest
from conftest import SAMFunctional, SAMSequential

import keras_sam

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.argmax(X[:, :3], axis=-1)


def trained(model=None, fit=True, **options):
    model = model or SAMSequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    options = {"num_data": 4, "damping": 0.0, "initial_precision": 25.0, "beta_2": 0.9, "seed": 5} | options
    model.compile(
        keras_sam.BayesianSAMOptimizer(keras.optimizers.SGD(0.1), **options), "sparse_categorical_crossentropy"
    )
    if fit:
        model.fit(X, Y, batch_size=8, verbose=0)
    return model


def state(model):
    return [keras.ops.convert_to_numpy(v).copy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_draws_are_those_of_the_posterior():
    model = trained()
    kernel = model.trainable_variables[0]
    (precision,) = (v for v in model.optimizer.variables if v.name.endswith("kernel_precision"))
    mean, s = kernel.numpy().copy(), np.random.default_rng(1).uniform(0.5, 20.0, (6, 3))
    precision.assign(s)
    generator, draws = keras.random.SeedGenerator(1), []
    for _ in range(200):
        with keras_sam.posterior_sample(model, generator):
            draws.append((kernel.numpy() - mean) * np.sqrt(4 * s))
    np.testing.assert_allclose(np.mean(draws, axis=0), 0.0, atol=4 / np.sqrt(200))
    np.testing.assert_allclose(np.std(draws, axis=0), 1.0, atol=4 / np.sqrt(400))
    assert np.abs(np.corrcoef(np.reshape(draws, (200, -1)).T) - np.eye(mean.size)).max() < 0.35


def test_the_model_is_as_before_after_an_exception_too():
    model = trained()
    before = state(model)
    for error in (KeyboardInterrupt, ValueError, None):
        try:
            with keras_sam.posterior_sample(model):
                assert all(np.abs(v.numpy() - b).min() > 0 for v, b in zip(model.variables, before, strict=False))
                model.layers[0].kernel.assign_add(np.ones((6, 3)))
                if error:
                    raise error("in the middle")
        except (KeyboardInterrupt, ValueError):
            pass
        assert_same(state(model), before)
    keras_sam.posterior_predict(model, X, samples=2)
    assert_same(state(model), before)


def test_a_seed_gives_the_same_draws():
    model = trained()
    found = [keras_sam.posterior_predict(model, X, samples=2, seed=seed) for seed in (1, 1, 2, None, None)]
    assert_same(found[:1], found[1:2])
    assert all(np.abs(a - b).max() > 1e-4 for a, b in itertools.pairwise(found[1:]))
    generator = keras.random.SeedGenerator(1)
    once = [keras_sam.posterior_predict(model, X, samples=1, seed=generator) for _ in range(2)]
    np.testing.assert_allclose((once[0] + once[1]) / 2, found[0], atol=1e-6)
    np.testing.assert_allclose(found[0].sum(-1), 1.0, atol=1e-5)


def test_weights_that_perturb_leaves_out_are_not_drawn():
    model = trained(perturb="kernel$")
    kernel, bias = (v.numpy().copy() for v in model.trainable_variables)
    with keras_sam.posterior_sample(model):
        assert np.abs(model.layers[0].kernel.numpy() - kernel).min() > 0
        np.testing.assert_array_equal(model.layers[0].bias.numpy(), bias)


def test_several_outputs_and_half_precision():
    inputs = keras.Input((6,))
    outputs = {name: keras.layers.Dense(1, dtype="bfloat16")(inputs) for name in ("a", "b")}
    model = SAMFunctional(inputs, outputs)
    model.compile(keras_sam.BayesianSAMOptimizer("sgd", num_data=32), {"a": "mse", "b": "mse"}, run_eagerly=True)
    model.fit(X, dict.fromkeys("ab", X[:, 0]), verbose=0)
    before = state(model)
    found = keras_sam.posterior_predict(model, X, samples=2, batch_size=8)
    assert {name: each.shape for name, each in found.items()} == {"a": (32, 1), "b": (32, 1)}
    assert_same(state(model), before)


def test_a_loaded_model_knows_its_posterior(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", {"SAMSequential": SAMSequential})
    found, expected = (keras_sam.posterior_predict(each, X, samples=2, seed=1) for each in (loaded, model))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be():
    model = trained(fit=False)
    with pytest.raises(ValueError, match=r"train the model first. Received: model="):
        keras_sam.posterior_predict(model, X)
    model = trained()
    with pytest.raises(ValueError, match=r"`samples` must be an integer >= 1. Received: samples=0"):
        keras_sam.posterior_predict(model, X, samples=0)
    with pytest.raises(ValueError, match=r"which an iterator cannot be: pass a list"):
        keras_sam.posterior_predict(model, iter([X]))
    model.compile(keras_sam.SAMOptimizer("sgd"), LOSS)
    with pytest.raises(ValueError, match=r"is what `BayesianSAMOptimizer` learns.*Received: a model with optimizer="):
        keras_sam.posterior_predict(model, X)
