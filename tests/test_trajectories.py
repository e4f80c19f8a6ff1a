"""Acceptance by the trajectories of the published implementations, and by the NumPy oracle."""

import keras
import numpy as np
import pytest
import reference

import keras_sam

SAM_CASES = {"sgd": {}, "sam": {"rho": 0.05}, "sam_elementwise_adaptive": {"rho": 0.5, "adaptive": True}}
CASES = {name: (keras_sam.SAMOptimizer, options) for name, options in SAM_CASES.items()} | {
    "asam_weights_only_eta": (keras_sam.ASAMOptimizer, {"rho": 0.5, "eta": 0.01}),
    "gsam": (keras_sam.GSAMOptimizer, {"rho": 0.1, "alpha": 0.4}),
    "friendly_sam": (keras_sam.FriendlySAMOptimizer, {"rho": 0.1, "sigma": 1.0, "lmbda": 0.9}),
    "wsam_decoupled": (keras_sam.WSAMOptimizer, {"rho": 0.05, "gamma": 0.9}),
    "wsam_coupled": (keras_sam.WSAMOptimizer, {"rho": 0.05, "gamma": 0.8, "decouple": False}),
    "vasso": (keras_sam.VaSSOOptimizer, {"rho": 0.1, "theta": 0.4}),
    "msam": (keras_sam.MSAMOptimizer, {"rho": 0.3, "momentum": 0.9}),
}
LOOPS = [case for case in CASES if case != "sgd"]


def make_optimizer(case):
    base = keras.optimizers.SGD(0.1, momentum=0.9)
    algorithm, options = CASES[case]
    return algorithm(base, **options) if options else base


def first_gradients(optimizer, gradients):
    """What `first_step` takes: nothing, where the algorithm climbs without a gradient."""
    return gradients() if optimizer.ascent_needs_gradient else None


def assert_close(model_or_weights, case, step, tolerance=2e-5):
    weights = getattr(model_or_weights, "weights", model_or_weights)
    found = reference.flatten(keras.ops.convert_to_numpy(w) for w in weights)
    np.testing.assert_allclose(found, reference.TRAJECTORIES[f"{case}/weights"][step], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", SAM_CASES)
def test_oracle_agrees_with_the_published_trajectory(case):
    batches = list(zip(reference.TRAJECTORIES["x"], reference.TRAJECTORIES["y"], strict=True))
    found = list(
        reference.train(
            reference.two_layer_loss, reference.TRAJECTORIES["initial"], batches, reference.SGD(), **SAM_CASES[case]
        )
    )
    np.testing.assert_allclose(found, reference.TRAJECTORIES[f"{case}/weights"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_train_on_batch(two_layer, batches, case, quick_mode):
    model = two_layer(make_optimizer(case), **quick_mode)
    losses = reference.TRAJECTORIES[f"{case}/{'perturbed_loss' if case == 'msam' else 'loss'}"]
    for step, (x, y) in enumerate(batches):
        loss = model.train_on_batch(x, y)
        assert loss == pytest.approx(losses[step], abs=2e-5)
        assert_close(model, case, step)


@pytest.mark.parametrize("case", SAM_CASES)
def test_fit(two_layer, batches, case):
    model = two_layer(make_optimizer(case))
    after_step = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: after_step.append(batch))
    x, y = np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])
    history = model.fit(x, y, batch_size=16, shuffle=False, callbacks=[record], verbose=0)
    assert after_step == list(range(8))
    assert_close(model, case, -1)
    assert history.history["loss"] == pytest.approx([reference.TRAJECTORIES[f"{case}/loss"].mean()], abs=2e-5)


@pytest.mark.parametrize("case", LOOPS)
def test_hand_written_loop(two_layer, batches, gradients_of, case):
    optimizer = make_optimizer(case)
    model = two_layer("sgd")
    for step, (x, y) in enumerate(batches):
        ascent = first_gradients(optimizer, lambda x=x, y=y: gradients_of(model, x, y))
        optimizer.first_step(ascent, model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)
        assert_close(model, case, step)


@pytest.mark.parametrize("case", LOOPS)
@pytest.mark.only("tensorflow")
def test_hand_written_loop_in_tf_function(two_layer, batches, gradients_of, case):
    import tensorflow as tf

    optimizer = make_optimizer(case)
    model = two_layer("sgd")

    @tf.function
    def train_step(x, y):
        ascent = first_gradients(optimizer, lambda: gradients_of(model, x, y))
        optimizer.first_step(ascent, model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)

    for step, (x, y) in enumerate(batches):
        train_step(tf.constant(x), tf.constant(y))
        assert_close(model, case, step)


@pytest.mark.parametrize("case", LOOPS)
@pytest.mark.only("jax")
def test_stateless_steps_in_jit(two_layer, batches, case):
    import jax

    optimizer = make_optimizer(case)
    model = two_layer("sgd")
    optimizer.build(model.trainable_variables)

    def loss(weights, x, y):
        logits, _ = model.stateless_call(weights, [], x)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))

    @jax.jit
    def train_step(weights, state, x, y):
        ascent = first_gradients(optimizer, lambda: jax.grad(loss)(weights, x, y))
        weights, state = optimizer.stateless_first_step(state, ascent, weights)
        return optimizer.stateless_second_step(state, jax.grad(loss)(weights, x, y), weights)

    weights = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    for step, (x, y) in enumerate(batches):
        weights, state = train_step(weights, state, x, y)
        assert_close(weights, case, step)
    assert [int(s) for s, v in zip(state, optimizer.variables, strict=True) if v.name == "iteration"] == [8]


def test_looksam_equals_the_oracle(two_layer, batches, mode):
    base = keras.optimizers.SGD(0.1, momentum=0.9)
    model = two_layer(keras_sam.LookSAMOptimizer(base, rho=0.3, interval=3, alpha=0.7), **mode)
    expected = reference.looksam(batches, rho=0.3, interval=3, alpha=0.7)
    for (x, y), weights in zip(batches, expected, strict=True):
        model.train_on_batch(x, y)
        np.testing.assert_allclose(reference.flatten(model.get_weights()), weights, rtol=0, atol=2e-5)


def test_looksam_in_a_hand_written_loop(two_layer, batches, gradients_of):
    optimizer = keras_sam.LookSAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.3, interval=3, alpha=0.7)
    model = two_layer("sgd")
    for (x, y), weights in zip(batches, reference.looksam(batches, rho=0.3, interval=3, alpha=0.7), strict=True):
        if optimizer.is_ascent_step():
            optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
            optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)
        else:
            optimizer.single_step(gradients_of(model, x, y), model.trainable_variables)
        np.testing.assert_allclose(reference.flatten(model.get_weights()), weights, rtol=0, atol=2e-5)
