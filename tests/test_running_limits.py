"""Other optimizers in a training step of the user's own, and what is refused there."""

import keras
import numpy as np
import own_steps
import pytest
from conftest import NOTHING, weights_of
from keras import ops
from own_steps import plain_and_sam, sam_of, trained

import keras_sam

SGD = keras.optimizers.SGD


# Other optimizers.


class TwoTimes(own_steps.Regression):
    """Applies its optimizer twice to a batch."""

    def step(self, batch):
        super().step(batch)
        return super().step(batch)


def test_an_optimizer_that_is_applied_twice_asks_each_time(quick_mode):
    plain, sam = plain_and_sam(TwoTimes, keras_sam.SAMOptimizer(SGD(0.1), rho=NOTHING), **quick_mode)
    for a, b in zip(plain, sam, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    x, y = own_steps.data(8)
    keras.utils.set_random_seed(0)
    twice = trained(sam_of(TwoTimes)(), keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 1, **quick_mode)
    keras.utils.set_random_seed(0)
    once = trained(sam_of(own_steps.Regression)(), keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 1, **quick_mode)
    once.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(twice), weights_of(once), atol=1e-6)


@pytest.mark.parametrize(
    "critic_optimizer",
    [
        keras_sam.MSAMOptimizer("sgd"),
        keras_sam.BayesianSAMOptimizer("sgd", num_data=8),
        keras_sam.SAMOptimizer("sgd", interval=2),
        keras_sam.SAMOptimizer("sgd", num_batch_splits=2),
    ],
    ids=["msam", "bayesian", "interval", "parts"],
)
def test_what_only_the_models_own_optimizer_can_do(critic_optimizer):
    model = sam_of(own_steps.GAN)(critic_optimizer)
    with pytest.raises(ValueError, match=r"is not the optimizer that the model was compiled with.*first_step"):
        trained(model, keras_sam.SAMOptimizer(SGD(0.1)))


def test_sam_of_a_second_optimizer_alone(quick_mode):
    """The model is compiled with a plain optimizer, and the critic has SAM."""
    found = []
    for critic_optimizer in (SGD(0.1), keras_sam.SAMOptimizer(SGD(0.1), rho=NOTHING)):
        keras.utils.set_random_seed(0)
        cls = own_steps.GAN if type(critic_optimizer) is type(SGD()) else sam_of(own_steps.GAN)
        model = trained(cls(critic_optimizer), SGD(0.1), **quick_mode)
        found.append([ops.convert_to_numpy(v) for v in model.layers_variables()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_sam_inside_another_optimizer_is_refused():
    inside = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(default_optimizer=keras_sam.SAMOptimizer(SGD(0.1)))
    )
    with pytest.raises(RuntimeError, match=r"goes outside: `SAMOptimizer\(other\)`"):
        trained(sam_of(own_steps.Regression)(), inside)


# What a backend cannot do.


@pytest.mark.only("tensorflow")
def test_a_step_in_a_tf_function_is_the_step(quick_mode):
    import tensorflow as tf

    class Decorated(own_steps.Regression):
        @tf.function
        def train_step(self, data):
            return super().train_step(data)

    plain, sam = plain_and_sam(Decorated, keras_sam.SAMOptimizer(SGD(0.1), rho=NOTHING), **quick_mode)
    for a, b in zip(plain, sam, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize("where", ["tf.function", "while_loop"])
def test_apply_in_a_graph_within_the_step_is_refused(where):
    import tensorflow as tf

    class Nested(own_steps.Regression):
        def update(self, optimizer, gradients, variables):
            def apply():
                optimizer.apply(gradients, variables)
                return 0

            if where == "tf.function":
                tf.function(apply)()
            else:
                tf.while_loop(lambda i: i < 1, lambda i: i + 1 + apply(), [tf.constant(0)])

    with pytest.raises(RuntimeError, match=r"inside a loop of TensorFlow's or a `tf.function`.*first_step"):
        trained(sam_of(Nested)(), keras_sam.SAMOptimizer(SGD(0.1)))


@pytest.mark.only("jax")
def test_apply_in_a_loop_of_jax_is_refused():
    import jax

    class Nested(own_steps.Regression):
        def update(self, optimizer, gradients, variables):
            state, weights = ([v.value for v in group] for group in (optimizer.variables, variables))
            jax.lax.scan(
                lambda carry, _: (optimizer.stateless_apply(carry[1], gradients, carry[0]), None),
                (weights, state),
                None,
                length=2,
            )

    with pytest.raises(RuntimeError, match=r"inside `lax.scan`.*stateless_first_step"):
        trained(sam_of(Nested)(), keras_sam.SAMOptimizer(SGD(0.1)))


@pytest.mark.only("jax")
def test_weights_clipped_after_a_condition_do_not_clip_the_gradients():
    """In the asking run the gradients leave a branch through the returned state, where a step may touch the weights."""

    class Clipped(own_steps.Regression):
        def update(self, optimizer, gradients, variables):
            super().update(optimizer, gradients, variables, ops.sum(gradients[0] ** 2) >= 0)
            for v in variables:
                v.assign(ops.clip(v, -0.01, 0.01))

    class Unconditional(Clipped):
        def update(self, optimizer, gradients, variables):
            own_steps.OwnStep.update(self, optimizer, gradients, variables)
            for v in variables:
                v.assign(ops.clip(v, -0.01, 0.01))

    found = []
    for cls in (Clipped, Unconditional):
        keras.utils.set_random_seed(0)
        model = trained(sam_of(cls)(), keras_sam.SAMOptimizer(SGD(1e-3), rho=0.5))
        found.append(weights_of(model))
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


@pytest.mark.only("torch")
def test_an_optimizer_of_torch_is_refused():
    import torch

    class Mixed(own_steps.Regression):
        def prepare(self, x, y):
            torch.optim.SGD([self.extra.value], lr=0.1).step()

        def __init__(self):
            super().__init__()
            self.extra = self.add_weight(shape=(), name="extra")
            self.extra.value.grad = torch.ones(())

        def own_variables(self):
            return self.network.trainable_variables

    with pytest.raises(RuntimeError, match=r"`SGD` of PyTorch would make two steps a batch.*Keras optimizer"):
        trained(sam_of(Mixed)(), keras_sam.SAMOptimizer(SGD(0.1)))


class Backward(own_steps.Regression):
    """Differentiates as PyTorch's users do."""

    def differentiate(self, loss_of, variables):
        self.before_backward()
        loss = loss_of()
        loss.backward()
        return loss.detach(), [v.value.grad for v in variables]

    def before_backward(self):
        self.zero_grad()


def gradients_of(model):
    x, y = map(ops.convert_to_tensor, own_steps.data(8))
    return own_steps.OwnStep.differentiate(model, lambda: model.loss_of(x, y), model.trainable_variables)[1]


@pytest.mark.only("torch")
def test_grad_after_the_update_is_the_gradient_at_the_weights():
    class Looking(Backward):
        seen = ()

        def after(self, loss):
            Looking.seen = [v.value.grad.clone() for v in self.trainable_variables]

    class ZeroedAfterwards(Looking):
        def before_backward(self):
            pass

        def after(self, loss):
            super().after(loss)
            self.zero_grad()

    for cls in (Looking, ZeroedAfterwards):
        keras.utils.set_random_seed(0)
        model = sam_of(cls)()
        expected = gradients_of(model)
        trained(model, keras_sam.SAMOptimizer(SGD(0.1), rho=0.5), 1)
        for found, gradient in zip(Looking.seen, expected, strict=True):
            np.testing.assert_allclose(found, gradient, atol=1e-6)


@pytest.mark.only("torch")
def test_gradients_that_add_up_over_steps_are_refused():
    class Adding(Backward):
        def before_backward(self):
            pass

    with pytest.raises(RuntimeError, match=r"Begin each step with `self.zero_grad\(\)`.*gradient_accumulation_steps"):
        trained(sam_of(Adding)(), keras_sam.SAMOptimizer(SGD(0.1)))
