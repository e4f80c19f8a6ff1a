"""float16 with loss scaling, bfloat16, and what an overflow leaves behind."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential, weights_of
from keras import ops

import keras_sam

SCALER = keras.optimizers.LossScaleOptimizer


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def base(rate=0.1, **options):
    return keras.optimizers.SGD(rate, momentum=0.9, **options)


def scale_of(model):
    return float(model.optimizer.loss_scaler.dynamic_scale.numpy())


class OverflowsWhenPerturbed(keras.layers.Layer):
    """Scales its input by a weight of one, and by infinity once that weight has left one: in the second pass."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x):
        scale = ops.cast(self.scale, "float32")
        return ops.cast(x, "float32") * scale * ops.where(scale == 1.0, np.float32(1.0), np.float32(np.inf))


def network(optimizer, *extra, **compile_options):
    keras.utils.set_random_seed(1)
    model = SAMSequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Activation("relu"),
            keras.layers.Dense(3),
            *extra,
            keras.layers.Activation("softmax", dtype="float32"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compile_options)
    return model


def state(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.inner_optimizer.variables)]


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("given", ["plain", "scaler inside", "scaler outside"])
def test_the_scaler_goes_inside(policy, given, classification):
    optimizer = {
        "plain": lambda: keras_sam.SAMOptimizer(base()),
        "scaler inside": lambda: keras_sam.SAMOptimizer(SCALER(base())),
        "scaler outside": lambda: SCALER(keras_sam.SAMOptimizer(base()), initial_scale=64.0),
    }[given]()
    model = network(optimizer)
    assert type(model.optimizer) is keras_sam.SAMOptimizer
    assert type(model.optimizer.base_optimizer) is SCALER
    assert type(model.optimizer.inner_optimizer) is type(base())
    model.fit(*classification, verbose=0)
    assert scale_of(model) == (64.0 if given == "scaler outside" else 2.0**15)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_compiling_again_keeps_one_scaler(policy, classification, tmp_path):
    model = network(keras_sam.SAMOptimizer(base()))
    model.compile(model.optimizer, "sparse_categorical_crossentropy")
    assert not isinstance(model.optimizer.loss_scaler.inner_optimizer, SCALER)
    model.fit(*classification, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects={"SAMSequential": SAMSequential})
    for each in (model, loaded):
        each.fit(*classification, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(loaded), weights_of(model), atol=1e-6)


def test_scaler_outside_is_refused_by_the_function(classification):
    class Plain(keras.Sequential):
        def train_step(self, *args):
            return keras_sam.sam_train_step(self, *args)

    model = Plain([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(SCALER(keras_sam.SAMOptimizer("sgd")), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"SAMOptimizer\(keras.optimizers.LossScaleOptimizer\(base\)\)"):
        model.fit(*classification, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["default", "eager"])
@pytest.mark.parametrize("failing_pass", [1, 2])
def test_overflow_undoes_the_step_and_halves_the_scale_once(policy, mode, failing_pass, classification):
    x, y = classification
    initial_scale = 2.0**60 if failing_pass == 1 else 2.0**8
    extra = [] if failing_pass == 1 else [OverflowsWhenPerturbed()]
    # Weights much smaller than their perturbation do not come back from it by subtraction.
    optimizer = keras_sam.SAMOptimizer(SCALER(base(), initial_scale=initial_scale), rho=10.0)
    model = network(optimizer, *extra, **mode)
    optimizer.build(model.trainable_variables)
    before = state(model)
    model.train_on_batch(x, y)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(new, old)
    assert scale_of(model) == initial_scale / 2


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_training_goes_on_after_overflows(policy, classification):
    x, y = classification
    model = network(keras_sam.SAMOptimizer(SCALER(base(), initial_scale=2.0**30), rho=0.05))
    history = model.fit(x, y, batch_size=32, epochs=20, verbose=0)
    assert scale_of(model) < 2.0**30
    assert history.history["accuracy"][-1] > 0.8
    assert np.isfinite(weights_of(model)).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"], indirect=True)
def test_digits_train_as_in_float32(policy):
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")

    def accuracy(options):
        keras.utils.set_random_seed(0)
        model = SAMSequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10),
                keras.layers.Activation("softmax", dtype="float32"),
            ]
        )
        model.compile(
            keras_sam.SAMOptimizer(base(0.05, **options), rho=0.05),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(x[:1400], y[:1400], batch_size=64, epochs=8, verbose=0)
        return float(model.evaluate(x[1400:], y[1400:], verbose=0)[1])  # a tensor in older versions of Keras

    # Keras scales the loss by itself under mixed_float16 only.
    low = accuracy({"loss_scale_factor": 128.0} if policy == "float16" else {})
    keras.config.set_dtype_policy("float32")
    full = accuracy({})
    assert full > 0.85
    assert low == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"], indirect=True)
def test_no_drift_in_low_precision_at_learning_rate_zero(policy):
    rng = np.random.default_rng(0)
    w = keras.Variable(rng.normal(scale=0.1, size=(40, 30)), dtype=policy)
    start = ops.convert_to_numpy(ops.cast(w, "float32"))
    gradients = [ops.convert_to_tensor(rng.normal(size=w.shape), dtype=policy) for _ in range(10)]
    optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.0), rho=0.5)
    for step in range(1000):
        optimizer.first_step([gradients[step % 10]], [w])
        optimizer.second_step([gradients[step % 10]], [w])
    assert np.abs(ops.convert_to_numpy(ops.cast(w, "float32")) - start).max() <= 1e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"], indirect=True)
def test_dtypes_are_kept(policy, classification):
    model = network(keras_sam.SAMOptimizer(base()))
    model.train_on_batch(*classification)
    expected = "float32" if policy.startswith("mixed") else policy
    assert {v.dtype for v in model.trainable_variables} == {expected}
    # Perturbations of half-precision weights are kept in float32, so that subtracting them is exact.
    assert {v.dtype for v in model.optimizer.perturbations} == {"float32"}
    momenta = [v for v in model.optimizer.inner_optimizer.variables if v.name.endswith("momentum")]
    assert {v.dtype for v in momenta} == {expected}
