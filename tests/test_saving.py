"""A saved model goes on as if it had never stopped; optimizers and models come back as they were."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
import reference
from conftest import weights_of
from keras.optimizers import SGD, Adam
from keras.optimizers.schedules import CosineDecay, PolynomialDecay

import keras_sam

STEPS, EPOCHS = 3, 4  # three batches of sixteen an epoch
RNG = np.random.default_rng(3)
X = RNG.normal(size=(16 * STEPS, 6)).astype("float32")
Y = (X[:, :3] + 0.5 * RNG.normal(size=(len(X), 3))).argmax(-1).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RHO = PolynomialDecay(0.2, STEPS * EPOCHS, end_learning_rate=0.05)


@keras.saving.register_keras_serializable(package="keras_sam_tests")
class Classifier(keras_sam.SAMModel, keras.Sequential):
    """What a user of `SAMModel` declares."""


def adam():
    base = Adam(CosineDecay(0.02, STEPS * EPOCHS, alpha=0.1), beta_1=0.8)
    return keras_sam.SAMOptimizer(base, rho=0.1, epsilon=1e-9, name="climber")


def sgd():
    base = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    return keras_sam.SAMOptimizer(base, rho=RHO, adaptive=True)


def make_model(seed=0):
    """Adam, cosine decay, a schedule of rho, batch norm, dropout: everything that a checkpoint must carry."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = [layers.Dense(12, activation="relu"), layers.BatchNormalization(momentum=0.5), layers.Dropout(0.3, seed=1)]
    model = Classifier([keras.Input((6,)), *hidden, layers.Dense(3)])
    model.compile(keras_sam.SAMOptimizer(Adam(CosineDecay(0.02, STEPS * EPOCHS)), rho=RHO), LOSS, metrics=["accuracy"])
    return model


class SeedEachEpoch(keras.callbacks.Callback):
    """Gives each epoch random numbers of its own: Keras saves no seed generator, whatever the optimizer."""

    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign(np.array([epoch, 0]))


def train(model, epochs=EPOCHS, start=0, callbacks=()):
    options = {"batch_size": 16, "shuffle": False, "epochs": epochs, "initial_epoch": start, "verbose": 0}
    return model.fit(X, Y, callbacks=[SeedEachEpoch(), *callbacks], **options)


@pytest.fixture(scope="module")
def uninterrupted():
    """Losses and weights of a training that nothing interrupts."""
    model = make_model()
    return train(model).history["loss"], weights_of(model)


@pytest.fixture(scope="module")
def halfway():
    """A model that was trained for two epochs of four, to copy but not to change."""
    model = make_model()
    train(model, epochs=2)
    return model


def assert_went_on(model, history, uninterrupted):
    losses, weights = uninterrupted
    assert int(model.optimizer.iterations) == STEPS * EPOCHS
    np.testing.assert_allclose(history.history["loss"], losses[history.epoch[0] :], rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights_of(model), weights, rtol=0, atol=1e-6)


def assert_same_optimizer(found, expected):
    """Another object of the same types and options."""
    assert found is not expected
    assert type(found) is keras_sam.SAMOptimizer
    for part in ("base_optimizer", "rho", "adaptive", "epsilon", "name"):
        a, b = getattr(found, part), getattr(expected, part)
        assert type(a) is type(b)
        assert a.get_config() == b.get_config() if hasattr(b, "get_config") else a == b
    assert found.get_config() == expected.get_config()


def assert_same_state(found, expected):
    """Equal variables, the base optimizer's included."""
    assert len(expected.base_optimizer.variables) > 2
    for a, b in zip(found.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), err_msg=b.path)


def user_warnings(action, *args):
    """What `action` returns, and the text of its `UserWarning`s."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        return action(*args), [str(w.message) for w in caught]


def assert_state_not_loaded(messages, base_name):
    assert len(messages) == 2
    assert "slot variables of optimizer 'sam' were not loaded" in messages[0]
    assert f"Skipping variable loading for optimizer '{base_name}" in messages[1]  # Keras's own, for the base


# Training that is interrupted.


def from_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def pickled(thing, folder=None):
    return pickle.loads(pickle.dumps(thing))


def deepcopied(thing, folder=None):
    return copy.deepcopy(thing)


@pytest.mark.parametrize("copied", [from_file, pickled, deepcopied])
def test_copy_of_a_model_goes_on(halfway, uninterrupted, tmp_path, copied):
    weights = weights_of(halfway)
    found = copied(halfway, tmp_path)
    assert type(found) is Classifier
    assert_same_optimizer(found.optimizer, halfway.optimizer)
    assert_same_state(found.optimizer, halfway.optimizer)
    assert_went_on(found, train(found, start=2), uninterrupted)
    assert int(halfway.optimizer.iterations) == 2 * STEPS  # they share nothing
    np.testing.assert_array_equal(weights_of(halfway), weights)


def test_model_checkpoint(uninterrupted, tmp_path):
    model = make_model()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    assert_went_on(model, train(model, callbacks=[checkpoint]), uninterrupted)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert int(loaded.optimizer.iterations) == 2 * STEPS
    assert_went_on(loaded, train(loaded, start=2), uninterrupted)


def test_model_checkpoint_of_weights(uninterrupted, tmp_path):
    """The file has the optimizer's state too, for an optimizer that is built."""
    model = make_model()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    train(model, epochs=2, callbacks=[checkpoint])
    fresh = make_model(seed=99)
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(tmp_path / "2.weights.h5")
    assert_same_state(fresh.optimizer, model.optimizer)
    assert_went_on(fresh, train(fresh, start=2), uninterrupted)


@pytest.mark.only("tensorflow")
def test_tensorflow_checkpoint(uninterrupted, tmp_path):
    import tensorflow as tf

    model = make_model()
    train(model, epochs=2)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / "checkpoint"))
    fresh = make_model(seed=99)
    fresh.optimizer.build(fresh.trainable_variables)
    status = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).read(path)
    status.assert_existing_objects_matched()
    assert_same_state(fresh.optimizer, model.optimizer)
    assert_went_on(fresh, train(fresh, start=2), uninterrupted)


@pytest.mark.only("tensorflow")
def test_exported_model_predicts_the_same(halfway, tmp_path):
    import tensorflow as tf

    halfway.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(X), halfway.predict(X, verbose=0), rtol=0, atol=1e-6)


def test_unbuilt_optimizer_warns_that_its_state_is_not_loaded(halfway, tmp_path):
    halfway.save_weights(tmp_path / "model.weights.h5")
    fresh = make_model(seed=99)
    _, messages = user_warnings(fresh.load_weights, tmp_path / "model.weights.h5")
    assert_state_not_loaded(messages, "adam")
    np.testing.assert_array_equal(weights_of(fresh), weights_of(halfway))
    assert int(fresh.optimizer.iterations) == 0


class Interrupt(keras.callbacks.Callback):
    """Fails in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 2 * STEPS + 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("restart", ["same model", "new process"])
def test_backup_and_restore(uninterrupted, tmp_path, restart):
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt()])
    model = make_model(seed=99) if restart == "new process" else model
    history = train(model, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert history.epoch == [2, 3]
    assert_went_on(model, history, uninterrupted)


# Objects that come back.


def from_config(optimizer):
    return keras_sam.SAMOptimizer.from_config(optimizer.get_config())


def serialized(optimizer):
    return keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))


COPIES = pytest.mark.parametrize("copied", [from_config, serialized, pickled, deepcopied])


@COPIES
@pytest.mark.parametrize("make_optimizer", [adam, sgd])
def test_copy_of_an_optimizer(copied, make_optimizer):
    optimizer = make_optimizer()
    found = copied(optimizer)
    assert_same_optimizer(found, optimizer)
    weights = [keras.Variable([3.0, 4.0]), keras.Variable([3.0, 4.0])]
    for each, w in zip((optimizer, found), weights, strict=True):
        for _ in range(3):
            each.first_step([w * 1.0], [w])
            each.second_step([w * 1.0], [w])
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, weights))


@COPIES
def test_copy_of_a_built_optimizer_is_not_built_as_with_any_in_keras(copied):
    optimizer = keras_sam.SAMOptimizer(Adam(0.1), rho=0.1)
    optimizer.build([keras.Variable([3.0, 4.0])])
    found, messages = user_warnings(copied, optimizer)
    assert_same_optimizer(found, optimizer)
    assert not found.built
    assert not found.base_optimizer.built
    if copied in (pickled, deepcopied):  # they say so
        assert_state_not_loaded(messages, "adam")


@pytest.mark.parametrize("make_optimizer", [adam, sgd])
@pytest.mark.parametrize("kind", [Classifier, keras.Sequential, keras.Model])
def test_load_model_restores_types_and_options(tmp_path, kind, make_optimizer):
    inputs, dense = keras.Input((6,)), keras.layers.Dense(3)
    model = kind(inputs, dense(inputs)) if kind is keras.Model else kind([inputs, dense])
    model = keras_sam.as_sam_model(model)
    model.compile(make_optimizer(), LOSS)
    model.train_on_batch(X, Y)
    loaded = from_file(model, tmp_path)
    assert type(loaded) is type(model)
    assert isinstance(loaded, keras_sam.SAMModel)
    assert isinstance(loaded, kind)
    assert_same_optimizer(loaded.optimizer, model.optimizer)
    assert_same_state(loaded.optimizer, model.optimizer)


@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_plain_checkpoint_in_a_sam_model(tmp_path, momentum, built):
    plain, model = (cls([keras.Input((6,)), keras.layers.Dense(3)]) for cls in (keras.Sequential, Classifier))
    plain.compile(SGD(0.1, momentum=momentum, name="sgd"), LOSS)
    plain.train_on_batch(X, Y)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.compile(keras_sam.SAMOptimizer(SGD(0.1, momentum=momentum, name="sgd")), LOSS)
    if built:
        model.optimizer.build(model.trainable_variables)
    _, messages = user_warnings(model.load_weights, tmp_path / "plain.weights.h5")
    assert_state_not_loaded(messages, "sgd")
    np.testing.assert_array_equal(weights_of(model), weights_of(plain))
    assert int(model.optimizer.iterations) == 0
    model.train_on_batch(X, Y)
    assert int(model.optimizer.iterations) == 1


# Models that exist already.


class DoublesInput(keras.Model):
    """A training step of its own."""

    def __init__(self, layers):
        super().__init__()
        self.stack = keras.Sequential(layers)

    def call(self, x):
        return self.stack(x)

    def train_step(self, *args):
        *state, data = args
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step(*state, (2 * x, y))


def functional(layers, inputs):
    return keras.Model(inputs, layers[1](layers[0](inputs["x"] if isinstance(inputs, dict) else inputs)))


# How to make each model of its two layers, and the input for which it takes the published steps.
KINDS = {
    "functional": (lambda layers: functional(layers, keras.Input((6,))), lambda x: x),
    "dict input": (lambda layers: functional(layers, {"x": keras.Input((6,), name="x")}), lambda x: {"x": x}),
    "sequential": (lambda layers: keras.Sequential([keras.Input((6,)), *layers]), lambda x: x),
    "unbuilt sequential": (keras.Sequential, lambda x: x),
    "subclass": (DoublesInput, lambda x: x / 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_as_sam_model_trains_the_layers_of_any_model(batches, kind):
    make, prepare = KINDS[kind]
    initial = reference.unflatten(reference.TRAJECTORIES["initial"])
    kernel1, bias1, kernel2, bias2 = (lambda shape, dtype=None, w=w: keras.ops.cast(w, dtype) for w in initial)
    layers = [
        keras.layers.Dense(8, activation="tanh", kernel_initializer=kernel1, bias_initializer=bias1),
        keras.layers.Dense(3, kernel_initializer=kernel2, bias_initializer=bias2),
    ]
    plain = make(layers)
    plain.compile("sgd", LOSS)
    own_optimizer = plain.optimizer
    model = keras_sam.as_sam_model(plain)
    assert isinstance(model, keras_sam.SAMModel)
    assert isinstance(model, type(plain))
    assert not model.compiled
    model.compile(keras_sam.SAMOptimizer(SGD(0.1, momentum=0.9), rho=0.05), LOSS)
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    model.fit(prepare(x), y, batch_size=16, shuffle=False, verbose=0)
    expected = reference.TRAJECTORIES["sam/weights"][-1]
    np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(weights_of(model), np.concatenate([weights_of(layer) for layer in layers]))
    assert plain.optimizer is own_optimizer


def test_as_sam_model_of_an_application():
    plain = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3, alpha=0.35)
    for layer in plain.layers[:-15]:  # so that it compiles in seconds
        layer.trainable = False
    model = keras_sam.as_sam_model(plain)
    model.compile(keras_sam.SAMOptimizer(SGD(0.1)), "sparse_categorical_crossentropy")
    before = [keras.ops.convert_to_numpy(v) for v in plain.trainable_variables]
    x = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.array([0, 1, 2, 0])))
    after = [keras.ops.convert_to_numpy(v) for v in plain.trainable_variables]
    assert np.mean([np.any(a != b) for a, b in zip(after, before, strict=True)]) > 0.8
    assert all(a is b for a, b in zip(model.weights, plain.weights, strict=True))


def test_as_sam_model_of_a_sam_model_is_that_model():
    model = Classifier([keras.layers.Dense(1)])
    assert keras_sam.as_sam_model(model) is model


@pytest.mark.parametrize("thing", [keras.layers.Dense(1), "model", None, keras.Sequential])
def test_as_sam_model_refuses_what_is_not_a_model(thing):
    with pytest.raises(TypeError, match="takes a Keras model"):
        keras_sam.as_sam_model(thing)
