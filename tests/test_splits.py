"""m-sharpness: a perturbation for each part of the batch."""

import keras
import numpy as np
import pytest
import reference
import scipy.sparse
from conftest import NOTHING, SAMFunctional, SAMSequential, weights_of
from keras import ops

import keras_sam


def sam(splits, rho=0.3, **options):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9, **options), rho=rho, num_batch_splits=splits)


def oracle(batches, splits, rho):
    """The weights after each step on the mean of the parts' SAM gradients, weighted by samples."""
    w, base, loss = reference.TRAJECTORIES["initial"], reference.SGD(), reference.two_layer_loss
    for x, y in batches:
        parts = list(zip(np.array_split(x, splits), np.array_split(y, splits), strict=True))
        mean = 0.0
        for part in parts:
            if len(part[1]):
                e = reference.perturbation(w, reference.gradient(loss, w, part), rho)
                mean = mean + len(part[1]) / len(y) * reference.gradient(loss, w + e, part)
        w = base(w, mean)
        yield w


@pytest.mark.parametrize(("splits", "size"), [(4, 16), (3, 16), (4, 5), (4, 2)])
def test_equals_the_oracle(two_layer, batches, splits, size, quick_mode):
    batches = [(x[:size], y[:size]) for x, y in batches]
    model = two_layer(sam(splits), **quick_mode)
    for (x, y), expected in zip(batches, oracle(batches, splits, 0.3), strict=True):
        model.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)


def test_fit_with_a_short_last_batch(two_layer, batches):
    x, y = np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])
    x, y = x[:37], y[:37]  # 16, 16 and 5
    model = two_layer(sam(4), metrics=["accuracy"])
    history = model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    expected = list(oracle([(x[i : i + 16], y[i : i + 16]) for i in (0, 16, 32)], 4, 0.3))[-1]
    np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)
    (accuracy,) = [m for m in model.metrics if m.name == "compile_metrics"]
    assert [float(v.numpy()) for v in accuracy.variables if v.name == "count"] == [37.0]  # each sample once
    assert 0 < history.history["accuracy"][0] < 1


def test_one_split_is_none(two_layer, batches):
    one, none = two_layer(sam(1)), two_layer(sam(None))
    assert one.optimizer.num_batch_splits is None
    for model in (one, none):
        model.train_on_batch(*batches[0])
    np.testing.assert_array_equal(weights_of(one), weights_of(none))


def test_with_rho_zero_is_the_base_run(two_layer, batches):
    split, plain = two_layer(sam(4, rho=NOTHING)), two_layer(keras.optimizers.SGD(0.1, momentum=0.9))
    for x, y in batches:
        losses = [model.train_on_batch(x, y) for model in (split, plain)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    np.testing.assert_allclose(weights_of(split), weights_of(plain), atol=1e-6)


def test_nested_inputs_sample_weights_and_batch_norm(mode):
    rng = np.random.default_rng(0)
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    hidden = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Concatenate()(list(inputs.values())))
    model = SAMFunctional(inputs, {"out": keras.layers.Dense(1, name="out")(hidden)})
    model.compile(sam(2), {"out": "mse"}, **mode)
    x = {name: rng.normal(size=(8, 3)).astype("float32") for name in inputs}
    weight = np.ones(8, "float32")
    model.train_on_batch(x, {"out": rng.normal(size=(8, 1))}, sample_weight={"out": weight})
    together = np.concatenate([x["a"], x["b"]], -1)
    norm = model.layers[3]
    expected = 0.5 * (0.5 * together[:4].mean(0)) + 0.5 * together[4:].mean(0)  # once for each part
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, atol=1e-5)


def test_sample_weights_split_with_the_samples(two_layer, batches):
    weight = np.linspace(0.1, 2.0, 16).astype("float32")
    split, plain = two_layer(sam(4, rho=NOTHING)), two_layer(keras.optimizers.SGD(0.1, momentum=0.9))
    for model in (split, plain):
        for x, y in batches:
            model.train_on_batch(x, y, sample_weight=weight)
    np.testing.assert_allclose(weights_of(split), weights_of(plain), atol=1e-6)


class Branch(keras.Model):
    """Has a layer that the output never uses."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = keras.layers.Dense(1), keras.layers.Dense(2)

    def build(self, shape):
        self.used.build(shape)
        self.unused.build(shape)

    def call(self, x):
        return self.used(x)


class SAMBranch(keras_sam.SAMModel, Branch):
    pass


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.filterwarnings("ignore:.*does not have a .call..*")
def test_variables_without_a_gradient_stay(classification):
    x, y = classification
    model = SAMBranch()
    model.build((None, 6))
    model.compile(sam(2, weight_decay=0.5) if keras.backend.backend() == "jax" else sam(2), "mse")
    if keras.backend.backend() == "jax":
        model.compile(sam(2), "mse")  # JAX gives a zero gradient, not None
    before = model.unused.kernel.numpy()
    model.train_on_batch(x, y.astype("float32"))
    np.testing.assert_array_equal(model.unused.kernel.numpy(), before)
    assert np.abs(model.optimizer.perturbations[0].numpy()).max() > 0


def test_setting_is_saved(tmp_path, two_layer, batches):
    model = two_layer(sam(4))
    model.train_on_batch(*batches[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"SAMSequential": SAMSequential})
    assert loaded.optimizer.num_batch_splits == 4
    for each in (model, loaded):
        each.train_on_batch(*batches[1])
    np.testing.assert_allclose(weights_of(loaded), weights_of(model), atol=1e-6)


@pytest.mark.parametrize("splits", [0, -1, 2.5, "4", True])
def test_bad_number_of_splits(splits):
    with pytest.raises(ValueError, match=r"`num_batch_splits` must be an integer >= 1 or None. Received"):
        sam(splits)


def test_gradient_accumulation_equals_the_oracle(two_layer, batches):
    """Issue of its own: SAM on each batch, the base optimizer's step on the mean of three descent gradients."""
    model = two_layer(sam(None, gradient_accumulation_steps=3))
    loss, w, base = reference.two_layer_loss, reference.TRAJECTORIES["initial"], reference.SGD()
    for group in (batches[:3], batches[3:6]):
        gradients = []
        for x, y in group:
            e = reference.perturbation(w, reference.gradient(loss, w, (x, y)), 0.3)
            gradients.append(reference.gradient(loss, w + e, (x, y)))
            model.train_on_batch(x, y)
        w = base(w, np.mean(gradients, 0))
        np.testing.assert_allclose(weights_of(model), w, rtol=0, atol=2e-5)


def test_interrupt_between_parts_leaves_everything_as_before(two_layer, batches):
    model = two_layer(sam(4), run_eagerly=True)
    model.train_on_batch(*batches[0])
    before, calls = weights_of(model), []
    compute_loss = model.compute_loss

    def failing(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_loss(*args, **kwargs)

    model.compute_loss = failing
    with pytest.raises(KeyboardInterrupt):
        model.train_on_batch(*batches[1])
    np.testing.assert_allclose(weights_of(model), before, atol=1e-7)
    undisturbed = two_layer(sam(4), run_eagerly=True)
    undisturbed.train_on_batch(*batches[0])
    for each in (model, undisturbed):
        each.train_on_batch(*batches[1])
    np.testing.assert_allclose(weights_of(model), weights_of(undisturbed), atol=1e-6)
    assert ops.shape(model.optimizer.perturbations[0]) == (6, 8)


def fit_on_sparse(**options):
    """The weights after an epoch on a sparse matrix, and on the same as an array."""
    x = np.maximum(np.random.default_rng(0).normal(size=(12, 5)), 0).astype("float32")
    found = []
    for inputs in (scipy.sparse.csr_matrix(x), x):
        keras.utils.set_random_seed(0)
        model = SAMSequential([keras.Input((5,), sparse=inputs is not x), keras.layers.Dense(1)])
        model.compile(keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1), rho=0.3, **options), loss="mse")
        model.fit(inputs, x[:, :1], batch_size=6, shuffle=False, verbose=0)
        found.append(weights_of(model))
    return found


@pytest.mark.only("jax")
@pytest.mark.parametrize("options", [{}, {"num_batch_splits": 2}, {"ascent_fraction": 0.5}])
def test_sparse_inputs(options):
    sparse, dense = fit_on_sparse(**options)
    np.testing.assert_allclose(sparse, dense, rtol=0, atol=1e-6)


@pytest.mark.only("tensorflow")
def test_sparse_inputs_that_cannot_be_cut_are_refused():
    sparse, dense = fit_on_sparse()
    np.testing.assert_allclose(sparse, dense, rtol=0, atol=1e-6)
    for options in ({"num_batch_splits": 2}, {"ascent_fraction": 0.5}):
        with pytest.raises(ValueError, match=r"cannot be cut.*Received: SparseTensor of shape"):
            fit_on_sparse(**options)
