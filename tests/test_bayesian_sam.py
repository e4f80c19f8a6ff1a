"""Bayesian SAM: by the trajectory of its authors' code, with the noise given, and by NumPy where that says nothing."""

import keras
import numpy as np
import pytest
import reference
from keras import ops

import keras_sam

AUTHORS = {"num_data": 128, "prior_precision": 0.128, "damping": 0.1}  # a weight decay of 0.128 / 128
NOISE = reference.TRAJECTORIES["bsam/noise"]


def make(monkeypatch, rho=0.05, **options):
    """bSAM, of which each step draws the noise of its turn."""
    optimizer = keras_sam.BayesianSAMOptimizer(keras.optimizers.SGD(0.1), rho=rho, **AUTHORS | options)
    tables = [np.stack(parts).astype("float32") for parts in zip(*map(reference.unflatten, NOISE), strict=True)]

    def given(variables):
        turn = ops.cast(optimizer.iterations, "int32")
        return [ops.take(ops.convert_to_tensor(tables[optimizer._get_variable_index(v)]), turn, 0) for v in variables]

    monkeypatch.setattr(optimizer, "noise", given)
    return optimizer


def oracle(batches, rho=0.05, interval=1, parts=1, beta_1=0.9, beta_2=0.999, initial_precision=1.0):
    """Weights, precision and momentum after each step."""
    loss, w = reference.two_layer_loss, reference.TRAJECTORIES["initial"]
    s, m, decay = np.full_like(w, initial_precision), np.zeros_like(w), AUTHORS["prior_precision"] / AUTHORS["num_data"]
    for step, (x, y) in enumerate(batches):
        sizes, gradients = [], []
        for part in zip(np.split(x, parts), np.split(y, parts), strict=True):
            g = reference.gradient(loss, w + NOISE[step] / np.sqrt(AUTHORS["num_data"] * s), part)
            climbs = rho > 0 and step % interval == 0
            gradients.append(reference.gradient(loss, w + rho * g / s, part) if climbs else g)
            sizes.append(abs(g))
        m = beta_1 * m + (1 - beta_1) * (np.mean(gradients, 0) + decay * w)
        w = w - 0.1 * m / s
        seen = np.sqrt(s) * np.mean(sizes, 0) + AUTHORS["damping"] + decay
        s = beta_2 * s + (1 - beta_2) * seen
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


@pytest.mark.parametrize("eager", [False, True])
def test_fit_takes_the_published_steps(two_layer, batches, monkeypatch, eager):
    optimizer = make(monkeypatch)
    model = two_layer(optimizer, run_eagerly=eager)
    for step, (x, y) in enumerate(batches):
        history = model.fit(x, y, batch_size=16, verbose=0)
        assert_published(model, optimizer, step)
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


# The published run changes s by less than a hundredth: these settings show what becomes of it.
LEARNS_FAST = {"beta_1": 0.6, "beta_2": 0.8, "initial_precision": 4.0}


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ({"num_batch_splits": 2}, {"parts": 2}),
        ({"interval": 3}, {"interval": 3}),
        ({"rho": 0.0}, {"rho": 0.0}),
    ],
    ids=["parts", "interval", "zero"],
)
def test_options_equal_the_oracle(two_layer, batches, monkeypatch, options, meaning):
    optimizer = make(monkeypatch, **options | LEARNS_FAST)
    model = two_layer(optimizer)
    for (x, y), expected in zip(batches, oracle(batches, **meaning | LEARNS_FAST), strict=True):
        model.train_on_batch(x, y)
        variables = [*model.trainable_variables, *optimizer.own_variables]
        assert_state(variables, variables, expected)


def test_every_draw_is_another_and_a_seed_tells_which():
    variables = [keras.Variable(np.zeros((40, 30), "float32")), keras.Variable(np.zeros(50, "float32"))]
    drawn = []
    for seed in (1, 1, 7):
        optimizer = keras_sam.BayesianSAMOptimizer("sgd", num_data=25, initial_precision=4.0, seed=seed)
        for _ in range(2):
            optimizer.noise_step(variables)
            drawn.append(reference.flatten(v.numpy() for v in variables))
            optimizer.restore()
    np.testing.assert_array_equal(drawn[:2], drawn[2:4])
    correlation = np.corrcoef([drawn[0], drawn[1], drawn[4], drawn[5]]) - np.eye(4)
    assert np.abs(correlation).max() < 0.15
    assert np.std(drawn) == pytest.approx(1 / np.sqrt(25 * 4.0), rel=0.05)
    assert not any(v.numpy().any() for v in variables)


def test_steps_in_the_wrong_order():
    variables, gradients = [keras.Variable([1.0, 2.0])], [ops.array([1.0, 1.0])]
    optimizer = keras_sam.BayesianSAMOptimizer("sgd", num_data=25)
    without = r"call `noise_step` before that gradient is computed. Received: `{}` without it"
    with pytest.raises(RuntimeError, match=without.format("first_step")):
        optimizer.first_step(gradients, variables)
    with pytest.raises(RuntimeError, match=without.format("single_step")):
        optimizer.single_step(gradients, variables)
    optimizer.noise_step(variables)
    with pytest.raises(RuntimeError, match=r"from which no climb was made"):
        optimizer.second_step(gradients, variables)
    with pytest.raises(RuntimeError, match=r"`noise_step` was called on weights that are perturbed already"):
        optimizer.noise_step(variables)
    optimizer.first_step(gradients, variables)
    with pytest.raises(RuntimeError, match=r"`noise_step` was called on weights that are perturbed already"):
        optimizer.noise_step(variables)
    optimizer.restore()
    assert variables[0].numpy().tolist() == [1.0, 2.0]
    with pytest.raises(RuntimeError, match=without.format("first_step")):
        optimizer.first_step(gradients, variables)


def test_single_step_in_a_hand_written_loop(two_layer, batches, gradients_of, monkeypatch):
    optimizer, model = make(monkeypatch, interval=3), two_layer("sgd")
    for (x, y), expected in zip(batches, oracle(batches, interval=3), strict=True):
        climbs = optimizer.is_ascent_step()
        optimizer.noise_step(model.trainable_variables)
        if climbs:
            optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
            optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)
        else:
            optimizer.single_step(gradients_of(model, x, y), model.trainable_variables)
        variables = [*model.trainable_variables, *optimizer.own_variables]
        assert_state(variables, variables, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_data": 0}, r"`num_data` must be an integer >= 1, the number of training samples. Received: num_data=0"),
        ({"beta_1": 1.0}, r"`beta_1` must be a float >= 0 and below 1. Received: beta_1=1.0"),
        ({"beta_2": -0.1}, r"`beta_2` must be a float >= 0 and below 1. Received: beta_2=-0.1"),
        ({"prior_precision": -1.0}, r"`prior_precision` must be a float >= 0. Received: prior_precision=-1.0"),
        ({"damping": None}, r"`damping` must be a float >= 0. Received: damping=None"),
        ({"initial_precision": 0.0}, r"`initial_precision` must be a positive float. Received: initial_precision=0.0"),
        ({"seed": "1"}, r"`seed` must be an integer. Received: seed=1"),
        ({"adaptive": True}, r"takes no `adaptive`: the posterior scales its neighbourhood. Received: adaptive=True"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        keras_sam.BayesianSAMOptimizer("sgd", **{"num_data": 8} | options)


def test_gradient_accumulation_is_refused():
    with pytest.raises(ValueError, match=r"pass larger batches and `num_batch_splits`. Received: gradient_acc.*=2"):
        keras_sam.BayesianSAMOptimizer(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), num_data=8)


def test_a_model_that_its_first_step_builds(batches):
    """In eager TensorFlow there is nothing to draw before: that one step takes its first gradient at the weights."""
    model = keras_sam.as_sam_model(keras.Sequential([keras.layers.Dense(3)]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras_sam.BayesianSAMOptimizer(keras.optimizers.SGD(0.0), num_data=1, seed=1)
    model.compile(optimizer, loss, run_eagerly=True)
    kernels = []
    for x, y in batches[:2]:
        model.train_on_batch(x, y)
        kernels.append(model.trainable_variables[0].numpy())
        assert not any(ops.convert_to_numpy(slot).any() for slot in optimizer.perturbations)
    np.testing.assert_allclose(*kernels, atol=1e-6)
