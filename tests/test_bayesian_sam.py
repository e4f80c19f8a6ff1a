"""Bayesian SAM: by the trajectory of its authors' code, with the noise given, and by NumPy where that says nothing."""

import keras
import numpy as np
import pytest
import reference
from keras import ops

import keras_sam

AUTHORS = {"num_data": 128, "prior_precision": 0.128, "damping": 0.1}  # a weight decay of 0.128 / 128
NOISE = reference.TRAJECTORIES["bsam/noise"]


def make(monkeypatch, rho=0.05, noise=NOISE, **options):
    """bSAM, of which each step draws the noise of its turn."""
    optimizer = keras_sam.BayesianSAMOptimizer(keras.optimizers.SGD(0.1), rho=rho, **AUTHORS | options)
    tables = [np.stack(parts).astype("float32") for parts in zip(*map(reference.unflatten, noise), strict=True)]

    def standard_normal(variable):
        table = ops.convert_to_tensor(tables[optimizer._get_variable_index(variable)])
        return ops.take(table, ops.cast(optimizer.iterations, "int32"), axis=0)

    monkeypatch.setattr(optimizer, "standard_normal", standard_normal)
    return optimizer


def oracle(batches, rho=0.05, interval=1, parts=1, noise=NOISE):
    """Weights, precision and momentum after each step."""
    loss, w = reference.two_layer_loss, reference.TRAJECTORIES["initial"]
    s, m, decay = np.ones_like(w), np.zeros_like(w), AUTHORS["prior_precision"] / AUTHORS["num_data"]
    for step, (x, y) in enumerate(batches):
        sizes, gradients = [], []
        for part in zip(np.split(x, parts), np.split(y, parts), strict=True):
            g = reference.gradient(loss, w + noise[step] / np.sqrt(AUTHORS["num_data"] * s), part)
            climbs = rho > 0 and step % interval == 0
            gradients.append(reference.gradient(loss, w + rho * g / s, part) if climbs else g)
            sizes.append(abs(g))
        m = 0.9 * m + 0.1 * (np.mean(gradients, 0) + decay * w)
        w = w - 0.1 * m / s
        s = 0.999 * s + 0.001 * (np.sqrt(s) * np.mean(sizes, 0) + AUTHORS["damping"] + decay)
        yield w, s, m


def assert_state(values, variables, expected):
    """That the weights, the precision and the momentum, found by name, are those expected."""
    found = [[], [], []]
    for variable, value in zip(variables, values, strict=True):
        kind = 1 if variable.name.endswith("_precision") else 2 if variable.name.endswith("_momentum") else 0
        if kind or variable.name in ("kernel", "bias"):
            found[kind].append(ops.convert_to_numpy(value))
    for parts, each in zip(found, expected, strict=True):
        np.testing.assert_allclose(reference.flatten(parts), each, rtol=0, atol=2e-5)


def assert_published(model, optimizer, step):
    variables = [*model.trainable_variables, *optimizer.own_variables]
    kinds = ("weights", "precision", "momentum")
    assert_state(variables, variables, [reference.TRAJECTORIES[f"bsam/{kind}"][step] for kind in kinds])


def test_oracle_agrees_with_the_published_trajectory():
    batches = zip(reference.TRAJECTORIES["x"], reference.TRAJECTORIES["y"], strict=True)
    for step, found in enumerate(oracle(batches)):
        for kind, each in zip(("weights", "precision", "momentum"), found, strict=True):
            np.testing.assert_allclose(each, reference.TRAJECTORIES[f"bsam/{kind}"][step], rtol=0, atol=1e-12)


def test_fit_takes_the_published_steps(two_layer, batches, monkeypatch, quick_mode):
    optimizer = make(monkeypatch)
    model = two_layer(optimizer, **quick_mode)
    for step, (x, y) in enumerate(batches):
        model.fit(x, y, batch_size=16, verbose=0)
        assert_published(model, optimizer, step)


def test_one_fit_takes_them_all(two_layer, batches, monkeypatch):
    optimizer = make(monkeypatch)
    model = two_layer(optimizer)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    history = model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert_published(model, optimizer, -1)
    assert list(history.history) == ["loss"]  # no sharpness: the first loss is not that at the weights


def test_hand_written_loop(two_layer, batches, gradients_of, monkeypatch):
    optimizer, model = make(monkeypatch), two_layer("sgd")
    for step, (x, y) in enumerate(batches):
        optimizer.noise_step(model.trainable_variables)
        optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)
        assert_published(model, optimizer, step)


@pytest.mark.only("tensorflow")
def test_hand_written_loop_in_tf_function(two_layer, batches, gradients_of, monkeypatch):
    import tensorflow as tf

    optimizer, model = make(monkeypatch), two_layer("sgd")

    @tf.function
    def train_step(x, y):
        optimizer.noise_step(model.trainable_variables)
        optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)

    for step, (x, y) in enumerate(batches):
        train_step(tf.constant(x), tf.constant(y))
        assert_published(model, optimizer, step)


@pytest.mark.only("jax")
def test_stateless_steps_in_jit(two_layer, batches, monkeypatch):
    import jax

    optimizer, model = make(monkeypatch), two_layer("sgd")
    optimizer.build(model.trainable_variables)

    @jax.grad
    def gradients(weights, x, y):
        logits, _ = model.stateless_call(weights, [], x)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))

    @jax.jit
    def train_step(weights, state, x, y):
        weights, state = optimizer.stateless_noise_step(state, weights)
        weights, state = optimizer.stateless_first_step(state, gradients(weights, x, y), weights)
        return optimizer.stateless_second_step(state, gradients(weights, x, y), weights)

    weights, state = ([v.value for v in group] for group in (model.trainable_variables, optimizer.variables))
    for step, (x, y) in enumerate(batches):
        weights, state = train_step(weights, state, x, y)
        expected = [reference.TRAJECTORIES[f"bsam/{kind}"][step] for kind in ("weights", "precision", "momentum")]
        assert_state([*weights, *state], [*model.trainable_variables, *optimizer.variables], expected)


@pytest.mark.parametrize(
    ("options", "meaning"),
    [({"num_batch_splits": 2}, {"parts": 2}), ({"interval": 3}, {"interval": 3}), ({"rho": 0.0}, {"rho": 0.0})],
    ids=["parts", "interval", "zero"],
)
def test_options_equal_the_oracle(two_layer, batches, monkeypatch, options, meaning):
    optimizer = make(monkeypatch, **options)
    model = two_layer(optimizer)
    for (x, y), expected in zip(batches, oracle(batches, **meaning), strict=True):
        model.train_on_batch(x, y)
        variables = [*model.trainable_variables, *optimizer.own_variables]
        assert_state(variables, variables, expected)
