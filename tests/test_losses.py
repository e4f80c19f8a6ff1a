"""Every way to shape a loss, against the NumPy oracle: both passes must see the whole of it."""

import keras
import numpy as np
import pytest
import reference
from conftest import SAMFunctional, SAMSequential, weights_of
from reference import cross_entropy, unflatten

import keras_sam

Dense = keras.layers.Dense
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class PenaltyOnInput(keras.layers.Layer):
    """Passes its input on, and adds the mean of its fourth power to the loss."""

    def call(self, x):
        self.add_loss(0.5 * keras.ops.mean(x**4))
        return x


def classifier(*between, **hidden_options):
    """A small network, with options for its first layer and more layers before its last."""
    hidden = Dense(5, activation="tanh", **hidden_options)
    return SAMSequential([keras.Input((6,)), hidden, *between, Dense(3)])


def forward(w, batch):
    """The weights of `classifier`, its hidden activations, and the loss of each sample."""
    kernel1, bias1, kernel2, bias2 = weights = unflatten(w, [(6, 5), (5,), (5, 3), (3,)])
    hidden = np.tanh(batch["x"] @ kernel1 + bias1)
    return weights, hidden, cross_entropy(hidden @ kernel2 + bias2, batch["y"])


# Each feature makes a model, the options of `compile`, what it adds to the arguments of `train_on_batch`, and the
# loss in NumPy, a function of the weights and of those arguments.


def plain():
    return classifier(), {"loss": CROSS_ENTROPY}, {}, lambda w, batch: forward(w, batch)[2].mean()


def regularizers():
    def loss(w, batch):
        (kernel1, bias1, _, _), hidden, losses = forward(w, batch)
        activity = 0.2 * (hidden**2).sum() / len(hidden)  # Keras averages this one over the batch
        return losses.mean() + 0.05 * (kernel1**2).sum() + 0.1 * (bias1**2).sum() + activity

    l2 = keras.regularizers.L2
    model = classifier(kernel_regularizer=l2(0.05), bias_regularizer=l2(0.1), activity_regularizer=l2(0.2))
    return model, {"loss": CROSS_ENTROPY}, {}, loss


def add_loss():
    def loss(w, batch):
        _, hidden, losses = forward(w, batch)
        return losses.mean() + 0.5 * (hidden**4).mean()

    return classifier(PenaltyOnInput()), {"loss": CROSS_ENTROPY}, {}, loss


def sample_weight():
    def loss(w, batch):
        return (forward(w, batch)[2] * batch["sample_weight"]).mean()

    weights = np.linspace(0, 3, 16).astype("float32")
    return classifier(), {"loss": CROSS_ENTROPY}, {"sample_weight": weights}, loss


def class_weight():
    def loss(w, batch):
        return (forward(w, batch)[2] * np.take([0.2, 1.0, 3.0], batch["y"])).mean()

    return classifier(), {"loss": CROSS_ENTROPY}, {"class_weight": {0: 0.2, 1: 1.0, 2: 3.0}}, loss


def dicts():
    """Two inputs and two outputs, each output with a loss and sample weights of its own."""

    def loss(w, batch):
        x, y, weight = batch["x"], batch["y"], batch["sample_weight"]
        shapes = [(6, 5), (5,), (5, 3), (3,), (5, 1), (1,)]
        kernel, bias, label_kernel, label_bias, value_kernel, value_bias = unflatten(w, shapes)
        hidden = np.tanh(np.concatenate([x["left"], x["right"]], axis=1) @ kernel + bias)
        label = cross_entropy(hidden @ label_kernel + label_bias, y["label"]) * weight["label"]
        value = (hidden @ value_kernel + value_bias - y["value"])[:, 0] ** 2 * weight["value"]
        return 0.7 * label.mean() + 1.5 * value.mean()

    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((2,), name="right")}
    hidden = Dense(5, activation="tanh")(keras.layers.Concatenate()([inputs["left"], inputs["right"]]))
    model = SAMFunctional(inputs, {"label": Dense(3, name="label")(hidden), "value": Dense(1, name="value")(hidden)})
    compile_options = {
        "loss": {"label": CROSS_ENTROPY, "value": "mean_squared_error"},
        "loss_weights": {"label": 0.7, "value": 1.5},
    }
    weights = np.linspace(0, 2, 16).astype("float32")
    return model, compile_options, {"sample_weight": {"label": weights, "value": weights[::-1].copy()}}, loss


def batch_for(feature, rng):
    x, y = rng.normal(size=(16, 6)).astype("float32"), rng.integers(0, 3, 16)
    if feature is not dicts:
        return {"x": x, "y": y}
    value = rng.normal(size=(16, 1)).astype("float32")
    return {"x": {"left": x[:, :4], "right": x[:, 4:]}, "y": {"label": y, "value": value}}


@pytest.mark.parametrize("eager", [False, True], ids=["default", "eager"])
@pytest.mark.parametrize("feature", [plain, regularizers, add_loss, sample_weight, class_weight, dicts])
def test_ten_steps_match_the_oracle(feature, eager):
    model, compile_options, arguments, loss = feature()
    optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.1)
    model.compile(optimizer, run_eagerly=eager, **compile_options)
    rng = np.random.default_rng(5)
    model.set_weights([0.5 * rng.normal(size=w.shape) for w in model.get_weights()])  # biases too
    batches = [batch_for(feature, rng) | arguments for _ in range(10)]
    before = weights_of(model)
    for batch, expected in zip(batches, reference.train(loss, before, batches, reference.SGD(), rho=0.1), strict=True):
        logs = model.train_on_batch(**batch, return_dict=True)
        assert logs["loss"] == pytest.approx(loss(before, batch), abs=2e-5)
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)
        before = expected
