"""Acceptance by the trajectories of the published implementations, and by the NumPy oracle."""

import keras
import numpy as np
import pytest
import reference

import keras_sam

CASES = {
    "sgd": {},
    "sam": {"rho": 0.05},
    "sam_elementwise_adaptive": {"rho": 0.5, "adaptive": True},
}
MODES = [{}, {"run_eagerly": True}, {"jit_compile": True}]


def make_optimizer(case):
    base = keras.optimizers.SGD(0.1, momentum=0.9)
    return keras_sam.SAMOptimizer(base, **CASES[case]) if CASES[case] else base


def assert_close(model_or_weights, case, step, tolerance=2e-5):
    weights = getattr(model_or_weights, "weights", model_or_weights)
    found = reference.flatten(keras.ops.convert_to_numpy(w) for w in weights)
    np.testing.assert_allclose(found, reference.TRAJECTORIES[f"{case}/weights"][step], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_oracle_agrees_with_the_published_trajectory(case):
    batches = list(zip(reference.TRAJECTORIES["x"], reference.TRAJECTORIES["y"], strict=True))
    found = list(
        reference.train(
            reference.two_layer_loss, reference.TRAJECTORIES["initial"], batches, reference.SGD(), **CASES[case]
        )
    )
    np.testing.assert_allclose(found, reference.TRAJECTORIES[f"{case}/weights"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES, ids=["default", "eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_train_on_batch(two_layer, batches, case, mode):
    model = two_layer(make_optimizer(case), **mode)
    for step, (x, y) in enumerate(batches):
        loss = model.train_on_batch(x, y)
        assert loss == pytest.approx(reference.TRAJECTORIES[f"{case}/loss"][step], abs=2e-5)
        assert_close(model, case, step)


@pytest.mark.parametrize("case", CASES)
def test_fit(two_layer, batches, case):
    model = two_layer(make_optimizer(case))
    after_step = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: after_step.append(batch))
    x, y = np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])
    history = model.fit(x, y, batch_size=16, shuffle=False, callbacks=[record], verbose=0)
    assert after_step == list(range(8))
    assert_close(model, case, -1)
    assert history.history["loss"] == pytest.approx([reference.TRAJECTORIES[f"{case}/loss"].mean()], abs=2e-5)


@pytest.mark.parametrize("case", ["sam", "sam_elementwise_adaptive"])
def test_hand_written_loop(two_layer, batches, gradients_of, case):
    optimizer = make_optimizer(case)
    model = two_layer("sgd")
    for step, (x, y) in enumerate(batches):
        optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)
        assert_close(model, case, step)


@pytest.mark.parametrize("case", ["sam", "sam_elementwise_adaptive"])
@pytest.mark.only("tensorflow")
def test_hand_written_loop_in_tf_function(two_layer, batches, gradients_of, case):
    import tensorflow as tf

    optimizer = make_optimizer(case)
    model = two_layer("sgd")

    @tf.function
    def train_step(x, y):
        optimizer.first_step(gradients_of(model, x, y), model.trainable_variables)
        optimizer.second_step(gradients_of(model, x, y), model.trainable_variables)

    for step, (x, y) in enumerate(batches):
        train_step(tf.constant(x), tf.constant(y))
        assert_close(model, case, step)


@pytest.mark.parametrize("case", ["sam", "sam_elementwise_adaptive"])
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
        weights, state = optimizer.stateless_first_step(state, jax.grad(loss)(weights, x, y), weights)
        return optimizer.stateless_second_step(state, jax.grad(loss)(weights, x, y), weights)

    weights = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    for step, (x, y) in enumerate(batches):
        weights, state = train_step(weights, state, x, y)
        assert_close(weights, case, step)
    assert [int(s) for s, v in zip(state, optimizer.variables, strict=True) if v.name == "iteration"] == [8]
