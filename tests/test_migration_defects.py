"""What the migration guides say of the old packages, found to be so; on each package's backend, with `--peers`."""

import keras
import numpy as np
import pytest
import reference

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)).astype("float32"), RNG.integers(0, 3, 16)


# tf_keras.


@pytest.fixture
def legacy():
    """Makes one step of tf_keras's SAM on a model of the given layers; returns it, its initial weights and the logs."""
    import tf_keras

    def step(*layers, x=X, y=Y, metrics=None, eager=False, **options):
        tf_keras.utils.set_random_seed(0)
        inner = tf_keras.Sequential([tf_keras.Input(x.shape[1:]), *layers, tf_keras.layers.Dense(3, name="last")])
        before = inner.get_weights()
        model = tf_keras.models.experimental.SharpnessAwareMinimization(inner, **options)
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.SGD(0.1), loss, metrics=metrics, run_eagerly=eager)
        return model, before, model.train_on_batch(x, y, return_dict=True)

    step.layers, step.losses = tf_keras.layers, tf_keras.losses
    return step


def update(model, before, logs):
    return reference.flatten(model.model.get_weights()) - reference.flatten(before)


@pytest.mark.only("tensorflow")
def test_tf_keras_sums_the_gradients_of_the_parts(legacy):
    whole, parts = (update(*legacy(rho=0.0, num_batch_splits=splits)) for splits in (None, 4))
    np.testing.assert_allclose(parts, 4 * whole, rtol=0, atol=1e-6)
    assert np.abs(whole).max() > 1e-3


@pytest.mark.only("tensorflow")
def test_tf_keras_leaves_out_regularizers_and_added_losses(legacy):
    class Penalty(legacy.layers.Dense):
        def call(self, x):
            self.add_loss(100.0 * keras.ops.sum(self.kernel**2))
            return super().call(x)

    dense = legacy.layers.Dense
    plain, regularized, penalized = (
        update(*legacy(layer)) for layer in (dense(8), dense(8, kernel_regularizer="l2"), Penalty(8))
    )
    np.testing.assert_array_equal(regularized, plain)
    np.testing.assert_array_equal(penalized, plain)


@pytest.mark.only("tensorflow")
def test_tf_keras_climbs_in_inference_mode(legacy):
    modes = []

    class Mode(legacy.layers.Layer):
        def call(self, x, training=False):
            modes.append(bool(training))
            return x

    legacy(Mode(), eager=True)
    assert modes[-2:] == [False, True]


@pytest.mark.only("tensorflow")
def test_tf_keras_moves_statistics_at_the_perturbed_weights(legacy):
    hidden, norm = legacy.layers.Dense(4, use_bias=False), legacy.layers.BatchNormalization(momentum=0.0)
    _, (kernel, *_), _ = legacy(hidden, norm, rho=2.0)
    assert np.abs(norm.moving_mean.numpy() - (X @ kernel).mean(0)).max() > 0.1


@pytest.mark.only("tensorflow")
def test_tf_keras_fails_on_embeddings_missing_gradients_and_unequal_parts(legacy):
    class Unused(legacy.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(6,), initializer="ones")

        def call(self, x):
            return x

    with pytest.raises(TypeError, match="IndexedSlices"):
        legacy(legacy.layers.Embedding(9, 4), legacy.layers.Flatten(), x=RNG.integers(0, 9, (16, 6)))
    with pytest.raises(ValueError, match="None values not supported"):
        legacy(Unused())
    with pytest.raises(ValueError, match="evenly divide"):
        legacy(x=X[:13], y=Y[:13], num_batch_splits=4)


@pytest.mark.only("tensorflow")
def test_tf_keras_does_not_split_a_dict():
    import tf_keras

    inputs = tf_keras.Input((6,), name="a")
    inner = tf_keras.Model({"a": inputs}, tf_keras.layers.Dense(3)(inputs))
    model = tf_keras.models.experimental.SharpnessAwareMinimization(inner, num_batch_splits=2)
    model.compile("sgd", "mse")
    with pytest.raises(TypeError):
        model.train_on_batch({"a": X}, Y)


@pytest.mark.only("tensorflow")
def test_tf_keras_logs_the_mean_of_both_losses(legacy):
    loss = legacy.losses.SparseCategoricalCrossentropy(from_logits=True)
    _, (kernel, bias), logs = legacy(rho=2.0, metrics=["sparse_categorical_crossentropy"])
    before = float(loss(Y, X @ kernel + bias))
    flat = np.concatenate([kernel.ravel(), bias]).astype("float64")

    def linear(w, batch):
        return reference.cross_entropy(batch[0] @ w[:18].reshape(6, 3) + w[18:], batch[1]).mean()

    climbed = flat + reference.perturbation(flat, reference.gradient(linear, flat, (X, Y)), rho=2.0)
    assert logs["loss"] == pytest.approx((before + linear(climbed, (X, Y))) / 2, abs=1e-5)
    assert logs["loss"] > before + 0.1


@pytest.mark.only("tensorflow")
def test_tf_keras_config_and_files(legacy, tmp_path):
    norm = legacy.layers.BatchNormalization(name="norm")
    wrapper, _, _ = legacy(norm, num_batch_splits=4)
    assert set(wrapper.get_config()) == {"model", "rho"}

    def ours():
        return keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)])

    expected = wrapper.model(X).numpy()
    copied = ours()
    copied.set_weights(wrapper.model.get_weights())
    np.testing.assert_allclose(copied(X), expected, atol=1e-6)

    wrapper.model.save_weights(tmp_path / "inner.weights.h5")
    loaded = ours()
    loaded.load_weights(tmp_path / "inner.weights.h5")
    np.testing.assert_allclose(loaded(X), expected, atol=1e-6)

    wrapper.save_weights(tmp_path / "wrapper.weights.h5")
    with pytest.raises(ValueError, match="could not be loaded"):
        ours().load_weights(tmp_path / "wrapper.weights.h5")
    wrapper.model.save(tmp_path / "inner.keras")
    with pytest.raises(TypeError, match="could not be deserialized"):
        keras.models.load_model(tmp_path / "inner.keras", compile=False)


# pytorch_optimizer.


@pytest.fixture
def torch_step():
    """Makes a step of `pytorch_optimizer`'s SAM on a network."""
    import torch

    def step(network, optimizer):
        for half in (optimizer.first_step, optimizer.second_step):
            torch.nn.functional.cross_entropy(network(torch.tensor(X)), torch.tensor(Y)).backward()
            half(zero_grad=True)

    return step


def torch_sam(parameters, **options):
    import torch
    from pytorch_optimizer import SAM

    return SAM(parameters, torch.optim.SGD, **options)


@pytest.mark.only("torch")
def test_pytorch_optimizer_moves_statistics_twice_and_draws_two_masks(torch_step):
    import torch

    torch.manual_seed(0)
    norm, dropout, masks = torch.nn.BatchNorm1d(6, momentum=0.5), torch.nn.Dropout(0.5), []
    dropout.register_forward_hook(lambda module, args, output: masks.append(output == 0))
    network = torch.nn.Sequential(norm, dropout, torch.nn.Linear(6, 3))
    torch_step(network, torch_sam(network.parameters(), lr=0.1))
    np.testing.assert_allclose(norm.running_mean, 0.75 * X.mean(0), atol=1e-4)  # two moves; one gives 0.5
    assert not torch.equal(*masks)


@pytest.mark.only("torch")
def test_pytorch_optimizer_saves_momentum(torch_step):
    import torch

    network = torch.nn.Linear(6, 3)
    optimizer = torch_sam(network.parameters(), lr=0.1, momentum=0.9)
    torch_step(network, optimizer)
    assert [set(state) for state in optimizer.state_dict()["state"].values()] == [{"momentum_buffer"}] * 2


@pytest.mark.only("torch")
def test_pytorch_optimizer_restores_parameters_with_one_gradient():
    import torch

    first, second, both = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = torch_sam([first, second, both], rho=1.0, lr=0.0)
    (first + both).sum().backward()
    optimizer.first_step(zero_grad=True)
    (second + both).sum().backward()
    optimizer.second_step()
    assert [p.item() for p in (first, second, both)] == [1.0, 1.0, 1.0]


@pytest.mark.only("torch")
def test_pytorch_optimizer_forgets_the_weights_in_a_second_first_step():
    import torch

    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch_sam([weight], rho=1.0, lr=0.0)
    for half in (optimizer.first_step, optimizer.first_step, optimizer.second_step):
        weight.grad = torch.ones(1)
        half(zero_grad=True)
    assert weight.item() == 2.0


# optax.


def optax_steps(opaque, gradients):
    """The weights after each call, from 1, and the last state; in opaque mode one call takes both gradients."""
    import jax.numpy as jnp
    import optax

    climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.5))
    optimizer = optax.contrib.sam(optax.sgd(0.1), climb, opaque_mode=opaque)
    weights, seen = jnp.ones(4), []
    state = optimizer.init(weights)
    # A gradient depends on the weights, so that it is NaN where they are.
    options = {"grad_fn": lambda w, _: gradients[1] + 0 * w} if opaque else {}
    for gradient in gradients[:1] if opaque else gradients:
        updates, state = optimizer.update(gradient + 0 * weights, state, weights, **options)
        weights = optax.apply_updates(weights, updates)
        seen.append(float(weights[0]))
    return seen, state


@pytest.mark.only("jax")
@pytest.mark.parametrize(
    ("opaque", "gradients", "nan"),
    [
        (True, [1.0, 1.0], [False]),
        (True, [0.0, 1.0], [True]),
        (True, [np.inf, 1.0], [True]),
        (True, [1.0, 0.0], [False]),
        (False, [1.0, 1.0], [False, False]),
        (False, [0.0, 1.0], [True, True]),
        (False, [1.0, 0.0], [False, True]),
        (False, [np.inf, 1.0], [True, True]),
    ],
)
def test_optax_turns_a_zero_or_infinite_gradient_into_nan(opaque, gradients, nan):
    assert np.isnan(optax_steps(opaque, gradients)[0]).tolist() == nan


@pytest.mark.only("jax")
def test_optax_shows_perturbed_weights_in_transparent_mode():
    (perturbed,), state = optax_steps(False, [1.0])
    assert perturbed == pytest.approx(1.25)
    np.testing.assert_allclose(state.cache, 1.0)
    seen, _ = optax_steps(False, [1.0] * 4)
    assert seen == pytest.approx([1.25, 0.9, 1.15, 0.8])
