"""A `train_step` of one's own with two optimizers: a GAN that draws digits, its generator trained with SAM.

The model's own optimizer is the generator's. The critic, which learns to tell drawn digits from real ones, has an Adam
of its own, and its weights are clipped after each step. While SAM asks for its second gradient the critic stands still:
it takes one step a batch, and both gradients see it as that step left it. At the end the drawn digits are training data
for a classifier of real ones.
"""

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import keras_sam

NOISE, CLIP = 16, 0.1


def network(inputs, outputs, activation=None):
    """Two hidden layers."""
    hidden = [keras.layers.Dense(128, activation="leaky_relu") for _ in range(2)]
    return keras.Sequential([keras.Input((inputs,)), *hidden, keras.layers.Dense(outputs, activation)])


def value_and_gradients(loss, variables):
    """What `loss()` returns, and its gradients, on TensorFlow or PyTorch."""
    if keras.backend.backend() == "torch":
        import torch

        value = loss()
        return value.detach(), torch.autograd.grad(value, [v.value for v in variables])
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    return value, tape.gradient(value, variables)


class GAN(keras.Model):
    """A generator that draws the digits it is asked for, and a critic of them."""

    def __init__(self):
        super().__init__()
        self.generator = network(NOISE + 10, 64, "sigmoid")
        self.critic = network(64 + 10, 1)
        self.seed_generator = keras.random.SeedGenerator(0)
        self.critic_optimizer = keras.optimizers.Adam(0.002, beta_1=0.5)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.critic_state = self.critic_optimizer.variables  # so it belongs to the model's state, as it must on JAX

    def compile(self, *args, **kwargs):
        """Let the model's optimizer train the generator alone."""
        super().compile(*args, **kwargs)
        self.optimizer.build(self.generator.trainable_variables)

    def call(self, digits):
        """Draw images of these digits, other ones each time."""
        noise = keras.random.normal((ops.shape(digits)[0], NOISE), seed=self.seed_generator)
        return self.generator(ops.concatenate([noise, ops.one_hot(digits, 10)], axis=1))

    def cross_entropy(self, digits, images, real):
        """That of the critic, if the images are `real`, 1 or 0."""
        logits = self.critic(ops.concatenate([images, ops.one_hot(digits, 10)], axis=1))
        return ops.mean(ops.softplus(logits) - real * logits)

    def critic_loss(self, digits, images, *_):
        """Tell real images from drawn ones."""
        return self.cross_entropy(digits, images, 1) + self.cross_entropy(digits, self(digits), 0)

    def generator_loss(self, digits, *_):
        """Have drawn images taken for real."""
        return self.cross_entropy(digits, self(digits), 1)

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            """A step of the critic, and one of the generator, as a function of the model's state."""
            import jax

            weights, others, optimizer_state, metrics = state
            variables = self.trainable_variables + self.non_trainable_variables
            size = len(self.generator.trainable_variables)  # which come first, as the attribute does above
            generator, critic = weights[:size], weights[size:]

            def loss_at(generator, critic, others, loss):
                """A loss at these values, and what its random draws make of the others."""
                with keras.StatelessScope(zip(variables, [*generator, *critic, *others], strict=True)) as scope:
                    value = loss(*data)
                return value, [scope.get_current_value(v) for v in self.non_trainable_variables]

            differentiate = jax.value_and_grad(loss_at, argnums=1, has_aux=True)
            (critic_loss, others), gradients = differentiate(generator, critic, others, self.critic_loss)
            places = [i for i, v in enumerate(self.non_trainable_variables) if any(v is w for w in self.critic_state)]
            critic, critic_state = self.critic_optimizer.stateless_apply([others[i] for i in places], gradients, critic)
            critic = [ops.clip(w, -CLIP, CLIP) for w in critic]
            for i, value in zip(places, critic_state, strict=True):
                others[i] = value

            differentiate = jax.value_and_grad(loss_at, argnums=0, has_aux=True)
            (loss, others), gradients = differentiate(generator, critic, others, self.generator_loss)
            generator, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, generator)
            state = [*generator, *critic], others, optimizer_state, metrics
            return {"generator": loss, "critic": critic_loss}, state

    else:

        def train_step(self, data):
            """A step of the critic, and one of the generator."""
            generator, critic = self.generator.trainable_variables, self.critic.trainable_variables
            critic_loss, gradients = value_and_gradients(lambda: self.critic_loss(*data), critic)
            self.critic_optimizer.apply(gradients, critic)
            for variable in critic:
                variable.assign(ops.clip(variable, -CLIP, CLIP))

            loss, gradients = value_and_gradients(lambda: self.generator_loss(*data), generator)
            self.optimizer.apply(gradients, generator)
            return {"generator": loss, "critic": critic_loss}


class SAMGAN(keras_sam.SAMModel, GAN):
    """The same, with SAM for the generator."""


keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    (x / 16).astype("float32"), y, test_size=0.2, random_state=0, stratify=y
)

model = SAMGAN()
optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.002, beta_1=0.5), rho=0.05)
model.compile(optimizer)
model.fit(y_train, x_train, batch_size=64, epochs=30, verbose=0)
print(f"{int(optimizer.iterations)} steps of the generator, {int(model.critic_optimizer.iterations)} of the critic")

drawn = ops.convert_to_numpy(model(y_train))
accuracy = KNeighborsClassifier(n_neighbors=1).fit(drawn, y_train).score(x_test, y_test)
perturbation = np.sqrt(sum(np.sum(ops.convert_to_numpy(e) ** 2) for e in optimizer.perturbations))  # rho, if SAM works
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, perturbation {perturbation:.4f}")
