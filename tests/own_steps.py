"""Training steps that users write themselves, each written once for all backends."""

import keras
import numpy as np
from keras import ops

import keras_sam

BACKEND = keras.backend.backend()
Dense = keras.layers.Dense


def data(samples=48):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(samples, 5)).astype("float32")
    return x, np.sin(2 * x[:, :2]).astype("float32")


class OwnStep(keras.Model):
    """A model whose `step` uses nothing of Keras's own; on JAX it runs on the values of the state.

    A step is `prepare`, the gradients of `loss_of`, `shape` them, the update, and `after`. A hand-written loop calls
    the same pieces.
    """

    def train_step(self, *args):
        if BACKEND != "jax":
            return self.step(*args)
        state, batch = args
        groups = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        pairs = [pair for group, values in zip(groups, state, strict=True) for pair in zip(group, values, strict=True)]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            logs = self.step(batch)
        return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)

    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        self.prepare(x, y)
        variables = self.own_variables()
        loss, gradients = self.differentiate(lambda: self.loss_of(x, y), variables)
        self.update(self.optimizer, self.shape_gradients(gradients), variables)
        self.after(loss)
        return {"objective": loss}

    def own_variables(self):
        return self.trainable_variables

    def layers_variables(self):
        """All that is not an optimizer's."""
        return self.variables

    def prepare(self, x, y):
        pass

    def shape_gradients(self, gradients):
        return gradients

    def after(self, loss):
        pass

    def differentiate(self, loss_of, variables):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = loss_of()
            return loss, tape.gradient(loss, variables)
        if BACKEND == "torch":
            import torch

            with torch.enable_grad():
                loss = loss_of()
                return loss.detach(), torch.autograd.grad(loss, [v.value for v in variables])
        import jax

        now = [(v, v.value) for v in self.variables]

        def pure(values):
            with keras.StatelessScope(state_mapping=[*now, *zip(variables, values, strict=True)]) as scope:
                loss = loss_of()
            return loss, [scope.get_current_value(v) for v in self.non_trainable_variables]

        (loss, written), gradients = jax.value_and_grad(pure, has_aux=True)([v.value for v in variables])
        for variable, value in zip(self.non_trainable_variables, written, strict=True):
            variable.assign(value)
        return loss, gradients

    def update(self, optimizer, gradients, variables, condition=None):
        """Apply the optimizer, where the condition holds."""
        if BACKEND == "tensorflow" and condition is not None:
            import tensorflow as tf

            tf.cond(condition, lambda: (optimizer.apply(gradients, variables), 0)[1], lambda: 0)
        elif BACKEND == "jax":
            import jax

            state, weights = ([v.value for v in group] for group in (optimizer.variables, variables))

            def applied():
                weights_and_state = optimizer.stateless_apply(state, gradients, weights)
                return tuple(map(list, weights_and_state))

            new = applied() if condition is None else jax.lax.cond(condition, applied, lambda: (weights, state))
            for variable, value in zip([*variables, *optimizer.variables], [*new[0], *new[1]], strict=True):
                variable.assign(value)
        elif condition is None or bool(condition):
            optimizer.apply(gradients, variables)


class MeanTeacher(OwnStep):
    """A student with batch norm and dropout, and a teacher whose weights are averages of the student's."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = (
            keras.Sequential(
                [
                    keras.Input((5,)),
                    Dense(8),
                    keras.layers.BatchNormalization(momentum=0.5),
                    keras.layers.Activation("tanh"),
                    keras.layers.Dropout(0.3, seed=3),
                    Dense(2),
                ]
            )
            for _ in range(2)
        )
        self.teacher.trainable = False

    def call(self, x, training=False):
        return self.student(x, training=training)

    def loss_of(self, x, y):
        predicted = self.student(x, training=True)
        taught = ops.stop_gradient(self.teacher(x, training=False))
        return ops.mean((predicted - y) ** 2) + ops.mean((predicted - taught) ** 2)

    def after(self, loss):
        for average, weight in zip(self.teacher.weights, self.student.weights, strict=True):
            if "float" in average.dtype:
                average.assign(0.8 * average + 0.2 * weight)


class Diffusion(OwnStep):
    """Learns to tell the noise from the image, without a compiled loss; a network of averages would draw samples."""

    def __init__(self):
        super().__init__()
        self.network, self.averages = (
            keras.Sequential([keras.Input((6,)), Dense(16, activation="swish"), Dense(5)]) for _ in range(2)
        )
        self.averages.trainable = False
        self.averages.set_weights(self.network.get_weights())
        self.seeds = keras.random.SeedGenerator(9)
        self.tracker = keras.metrics.Mean(name="noise_loss")

    @property
    def metrics(self):
        return [self.tracker]

    def call(self, x):
        return self.averages(ops.concatenate([x, x[:, :1]], -1))

    def loss_of(self, x, y):
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        time = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seeds)
        noisy = ops.sqrt(time) * x + ops.sqrt(1 - time) * noise
        return ops.mean((self.network(ops.concatenate([noisy, time], -1)) - noise) ** 2)

    def after(self, loss):
        self.tracker.update_state(loss)
        for average, weight in zip(self.averages.weights, self.network.weights, strict=True):
            average.assign(0.9 * average + 0.1 * weight)


class GAN(OwnStep):
    """A Wasserstein GAN: the critic makes a step with an optimizer of its own, and its weights are clipped."""

    def __init__(self, critic_optimizer):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((3,)), Dense(8, activation="tanh"), Dense(5)])
        self.critic = keras.Sequential([keras.Input((5,)), Dense(8, activation="tanh"), Dense(1)])
        self.critic_optimizer = critic_optimizer
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.critic_state = list(self.critic_optimizer.variables)  # for Keras to carry it along on JAX
        self.seeds = keras.random.SeedGenerator(9)

    def layers_variables(self):
        state = {id(v) for v in self.critic_state}
        return [v for v in self.variables if id(v) not in state]

    def compile(self, optimizer, **kwargs):
        super().compile(optimizer, **kwargs)
        self.optimizer.build(self.generator.trainable_variables)

    def call(self, x):
        return self.critic(x)

    def own_variables(self):
        return self.generator.trainable_variables

    def made(self, x):
        return self.generator(keras.random.normal((ops.shape(x)[0], 3), seed=self.seeds))

    def critic_loss(self, x):
        return ops.mean(self.critic(self.made(x))) - ops.mean(self.critic(x))

    def prepare(self, x, y):
        variables = self.critic.trainable_variables
        _, gradients = self.differentiate(lambda: self.critic_loss(x), variables)
        self.update(self.critic_optimizer, gradients, variables)
        self.clip()

    def clip(self):
        for weight in self.critic.trainable_variables:
            weight.assign(ops.clip(weight, -0.3, 0.3))

    def loss_of(self, x, y):
        return -ops.mean(self.critic(self.made(x)))


class Regression(OwnStep):
    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([keras.Input((5,)), Dense(8, activation="tanh"), Dense(2)])

    def call(self, x):
        return self.network(x)

    def loss_of(self, x, y):
        return ops.mean((self.network(x) - y) ** 2)


class Accumulation(Regression):
    """Adds up the gradients of two batches before it applies them."""

    def __init__(self):
        super().__init__()
        self.sums = [keras.Variable(ops.zeros(v.shape), trainable=False) for v in self.network.trainable_variables]
        self.batches = keras.Variable(0, dtype="int32", trainable=False)

    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        loss, gradients = self.differentiate(lambda: self.loss_of(x, y), self.trainable_variables)
        self.batches.assign(self.batches + 1)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign(total + gradient)
        full = ops.equal(self.batches % 2, 0)
        self.update(self.optimizer, [total.value / 2 for total in self.sums], self.trainable_variables, full)
        for total in self.sums:
            total.assign(ops.where(full, 0.0, total.value))
        return {"objective": loss}


class Clipping(Regression):
    """Clips the gradients and logs how long they were."""

    def __init__(self):
        super().__init__()
        self.length = keras.metrics.Mean(name="gradient_norm")

    def shape_gradients(self, gradients):
        length = ops.sqrt(sum(ops.sum(g**2) for g in gradients))
        self.length.update_state(length)
        return [g * ops.minimum(1.0, 0.5 / length) for g in gradients]

    def step(self, batch):
        return super().step(batch) | {"gradient_norm": self.length.result()}


def trained(model, optimizer, steps=3, **options):
    """The model, after as many steps with this optimizer."""
    model.compile(optimizer, **options)
    model.fit(*data(8 * steps), batch_size=8, shuffle=False, verbose=0)
    return model


def sam_of(cls):
    """The class, with SAM."""
    return type(f"SAM{cls.__name__}", (keras_sam.SAMModel, cls), {})


def plain_and_sam(cls, optimizer, steps=3, **options):
    """The variables of a class trained without SAM, and with it."""
    found = []
    for each, given in ((cls, keras.optimizers.SGD(0.1)), (sam_of(cls), optimizer)):
        keras.utils.set_random_seed(0)
        model = trained(each(), given, steps, **options)
        found.append([ops.convert_to_numpy(v) for v in model.variables])
    return found
