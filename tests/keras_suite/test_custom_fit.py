"""The steps of Keras's guides to a custom `fit`, in each backend's own words: at rho = 0 as without SAM."""

import keras
import numpy as np
import pytest
from conftest import MODES
from keras import ops

import keras_sam

BACKEND = keras.backend.backend()
Dense, SGD = keras.layers.Dense, keras.optimizers.SGD

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


class Guided(keras.Model):
    """Computes the loss by `compute_loss`, weighted by samples or classes, and goes through its metrics."""

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([Dense(8, activation="tanh"), keras.layers.Dropout(0.3, seed=3), Dense(1)])

    def call(self, x, training=False):
        return self.network(x, training=training)

    if BACKEND == "jax":

        def loss_and_updates(self, trainable, others, x, y, weight, training):
            predicted, others = self.stateless_call(trainable, others, x, training=training)
            return self.compute_loss(x, y, predicted, sample_weight=weight), (predicted, others)

        def train_step(self, state, data):
            trainable, others, optimizer, metrics = state
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            differentiate = jax.value_and_grad(self.loss_and_updates, has_aux=True)
            (loss, (predicted, others)), gradients = differentiate(trainable, others, x, y, weight, training=True)
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            logs, metrics = self.measured(metrics, loss, y, predicted, weight)
            return logs, (trainable, others, optimizer, metrics)

        def test_step(self, state, data):
            trainable, others, metrics = state
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            loss, (predicted, others) = self.loss_and_updates(trainable, others, x, y, weight, training=False)
            logs, metrics = self.measured(metrics, loss, y, predicted, weight)
            return logs, (trainable, others, metrics)

        def measured(self, variables, loss, y, predicted, weight):
            new, logs = [], {}
            for metric in self.metrics:
                own = variables[len(new) : len(new) + len(metric.variables)]
                arguments = (loss,) if metric.name == "loss" else (y, predicted, weight)
                own = metric.stateless_update_state(own, *arguments)
                logs[metric.name] = metric.stateless_result(own)
                new += own
            return logs, new

    else:

        def train_step(self, data):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            if BACKEND == "tensorflow":
                with tf.GradientTape() as tape:
                    predicted = self(x, training=True)
                    loss = self.compute_loss(y=y, y_pred=predicted, sample_weight=weight)
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply(gradients, self.trainable_variables)
            else:
                self.zero_grad()
                predicted = self(x, training=True)
                loss = self.compute_loss(y=y, y_pred=predicted, sample_weight=weight)
                loss.backward()
                gradients = [v.value.grad for v in self.trainable_weights]
                with torch.no_grad():
                    self.optimizer.apply(gradients, self.trainable_weights)
            return self.measured(loss, y, predicted, weight)

        def test_step(self, data):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            predicted = self(x, training=False)
            return self.measured(self.compute_loss(y=y, y_pred=predicted, sample_weight=weight), y, predicted, weight)

        def measured(self, loss, y, predicted, weight):
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, predicted, sample_weight=weight)
            return {metric.name: metric.result() for metric in self.metrics}


class OwnMetrics(Guided):
    """Names its metrics, and computes its loss, without any that it was compiled with."""

    def __init__(self):
        super().__init__()
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.error = keras.metrics.MeanAbsoluteError(name="mae")

    @property
    def metrics(self):
        return [self.loss_tracker, self.error]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        losses = (ops.convert_to_tensor(y) - y_pred) ** 2
        return ops.mean(losses if sample_weight is None else losses * sample_weight[:, None])


class GAN(keras.Model):
    """Has two optimizers of its own, neither of them `model.optimizer`."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential([keras.Input((5,)), Dense(8, activation="tanh"), Dense(1)])
        self.generator = keras.Sequential([keras.Input((3,)), Dense(8, activation="tanh"), Dense(5)])
        self.trackers = [keras.metrics.Mean(name=name) for name in ("d_loss", "g_loss")]
        self.seeds = keras.random.SeedGenerator(9)
        self.built = True

    @property
    def metrics(self):
        return self.trackers

    def compile(self, d_optimizer, g_optimizer, loss_fn, **options):
        super().compile(**options)
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    def train_step(self, real):
        size = ops.shape(real)[0]
        noise = keras.random.normal((size, 3), seed=self.seeds)
        both = ops.concatenate([self.generator(noise), real], axis=0)
        labels = ops.concatenate([ops.ones((size, 1)), ops.zeros((size, 1))], axis=0)
        noise = keras.random.normal((size, 3), seed=self.seeds)
        losses = (
            self.descend(self.discriminator, self.d_optimizer, lambda: self.discriminator(both), labels),
            self.descend(
                self.generator,
                self.g_optimizer,
                lambda: self.discriminator(self.generator(noise)),
                ops.zeros((size, 1)),
            ),
        )
        for tracker, loss in zip(self.trackers, losses, strict=True):
            tracker.update_state(loss)
        return {tracker.name: tracker.result() for tracker in self.trackers}

    def descend(self, network, optimizer, predict, labels):
        if BACKEND == "tensorflow":
            with tf.GradientTape() as tape:
                loss = self.loss_fn(labels, predict())
            optimizer.apply_gradients(
                zip(tape.gradient(loss, network.trainable_weights), network.trainable_weights, strict=True)
            )
            return loss
        self.zero_grad()
        loss = self.loss_fn(labels, predict())
        loss.backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in network.trainable_weights], network.trainable_weights)
        return loss.detach()


def with_sam(cls):
    return type(f"SAM{cls.__name__}", (keras_sam.SAMModel, cls), {})


def assert_same(found, expected):
    """Each is a model and its history, without SAM and with it."""
    (model, history), (plain, plain_history) = found, expected
    rise = history.pop("sharpness", None)
    assert history.keys() == plain_history.keys()
    for name, values in plain_history.items():
        assert history[name] == pytest.approx(values, abs=1e-6), name
    for a, b in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=1e-6, err_msg=a.path)
    return rise


WEIGHTS = {
    "plain": {},
    "sample": {"sample_weight": np.linspace(0.1, 2.0, 24).astype("float32")},
    "class": {"class_weight": {0: 0.3, 1: 2.0}},
}


CASES = [
    *((weights, "default") for weights in WEIGHTS),
    ("sample", "eager"),
    pytest.param("sample", "compiled", marks=pytest.mark.only("tensorflow", "jax")),
]


@pytest.mark.parametrize(("weights", "mode"), CASES)
@pytest.mark.parametrize("cls", [Guided, OwnMetrics])
def test_a_step_of_the_guide(cls, weights, mode):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 2, (24, 1)).astype("float32")
    compiled = {} if cls is OwnMetrics else {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mse"]}
    found = []
    for each, optimizer in ((with_sam(cls), keras_sam.SAMOptimizer(SGD(0.1), rho=1e-300)), (cls, SGD(0.1))):
        keras.utils.set_random_seed(0)
        model = each()
        model.compile(optimizer, **compiled, **MODES[mode])
        options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, validation_data=(x[:8], y[:8]), **options, **WEIGHTS[weights]).history
        history["evaluate"] = list(model.evaluate(x, y, verbose=0, return_dict=True).values())
        history["batch"] = model.train_on_batch(x, y)
        found.append((model, history))
    assert assert_same(*found) == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.only("tensorflow", "torch")  # the guide has none for JAX
@pytest.mark.parametrize("sam", [["d_optimizer"], ["g_optimizer"], ["d_optimizer", "g_optimizer"]], ids="_".join)
@pytest.mark.parametrize("mode", ["default", "eager"])
def test_the_gan_of_the_guide(sam, mode):
    x = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
    found = []
    for cls, wrapped in ((with_sam(GAN), sam), (GAN, [])):
        keras.utils.set_random_seed(0)
        optimizers = {name: keras.optimizers.Adam(0.01) for name in ("d_optimizer", "g_optimizer")}
        optimizers |= {name: keras_sam.SAMOptimizer(optimizers[name], rho=1e-300) for name in wrapped}
        model = cls()
        model.compile(**optimizers, loss_fn=keras.losses.BinaryCrossentropy(from_logits=True), **MODES[mode])
        history = model.fit(x, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        found.append((model, history))
    assert_same(*found)
