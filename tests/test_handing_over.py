"""A model that was trained with SAM is handed on: its plain twin, and where it can be used."""

import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import family
import keras
import numpy as np
import plain_models as models
import pytest
from conftest import SAMFunctional, SAMSequential

import keras_sam

WORKERS = Path(__file__).with_name("workers")

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y = np.random.default_rng(0).normal(size=(12, 6)).astype("float32"), np.arange(12) % 3


class SAMBranches(keras_sam.SAMModel, models.Branches):
    """Declared by its user."""


class SAMLate(keras_sam.SAMModel, models.Late):
    log_sharpness = False


class SAMClassifier(keras_sam.SAMModel, models.Classifier):
    pass


class WithConstructor(keras_sam.SAMModel, keras.Sequential):
    """Its constructor is of no use to a Sequential that has its layers."""

    def __init__(self, units):
        super().__init__([keras.Input((6,)), keras.layers.Dense(units)])


# How to make each kind of model, and its plain class.
TWINS = {
    "functional": models.functional,
    "sequential": models.sequential,
    "sequential without input": models.sequential_without_input,
    "subclass": models.Branches,
    "late subclass": models.Late,
    "functional subclass": models.Classifier,
}
DECLARED = {
    "functional": (lambda: models.functional(SAMFunctional), type(models.functional())),
    "sequential": (lambda: models.sequential(SAMSequential), keras.Sequential),
    "sequential without input": (lambda: models.sequential_without_input(SAMSequential), keras.Sequential),
    "sequential with constructor": (lambda: WithConstructor(3), keras.Sequential),
    "subclass": (SAMBranches, models.Branches),
    "late subclass": (SAMLate, models.Late),
    "functional subclass": (SAMClassifier, models.Classifier),
}


def make_sam(kind, way):
    """A SAM model, and its plain class."""
    if way == "declared":
        make, plain_class = DECLARED[kind]
        return make(), plain_class
    plain = TWINS[kind]()
    return keras_sam.as_sam_model(plain), type(plain)


def batch(kind):
    return {"x": X} if kind == "functional" else X


def trained(kind, way):
    model, plain_class = make_sam(kind, way)
    model.compile(keras_sam.SAMOptimizer(keras.optimizers.Adam(0.01), rho=0.1), LOSS, run_eagerly=True)
    model.fit(batch(kind), Y, verbose=0)
    return model, plain_class


def predicted(model, kind):
    return keras.ops.convert_to_numpy(model(batch(kind)))


# Keras's NumPy backend imports JAX.
ELSEWHERE = "numpy" if keras.backend.backend() == "jax" else keras.backend.backend()


def run(worker, backend, *arguments):
    """What the worker prints, in a process of its own."""
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, WORKERS / worker, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1]


ALL = [*(("twin", kind) for kind in TWINS), *(("declared", kind) for kind in DECLARED)]


@pytest.mark.parametrize(("way", "kind"), ALL)
def test_plain_model_shares_layers_and_weights(kind, way):
    model, plain_class = trained(kind, way)
    plain = keras_sam.as_plain_model(model)
    assert type(plain) is plain_class
    assert not plain.compiled
    assert plain.built
    assert plain.name == model.name
    assert [id(v) for v in plain.weights] == [id(v) for v in model.weights]
    np.testing.assert_array_equal(predicted(plain, kind), predicted(model, kind))
    plain.compile(keras.optimizers.SGD(0.1), LOSS)  # trains on, as a plain model
    assert sorted(plain.fit(batch(kind), Y, verbose=0).history) == ["loss"]
    np.testing.assert_array_equal(predicted(plain, kind), predicted(model, kind))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_files_of_plain_models_are_loaded_where_there_is_no_keras_sam(tmp_path):
    for way, kind in ALL:
        model, _ = trained(kind, way)
        name = f"{kind} {way}"
        keras_sam.as_plain_model(model).save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=X, predicted=predicted(model, kind))
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as file:
            assert not any(name in file.read(each) for each in file.namelist() for name in (b"keras_sam", b"SAM"))
    assert run("load_plain.py", ELSEWHERE, tmp_path) == sorted(f"{kind} {way}" for way, kind in ALL)


@pytest.mark.only("jax")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_files_with_sam_inside_are_loaded_where_nothing_can_train(tmp_path):
    for name in family.REGISTRY:
        model = keras_sam.as_sam_model(models.sequential())
        model.compile(family.make(name), LOSS, run_eagerly=True)
        model.fit(X, Y, verbose=0)
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=X, y=Y, predicted=predicted(model, "sequential"))
    assert run("without_gradients.py", "numpy", tmp_path) == sorted(family.REGISTRY)


def test_plain_model_of_a_plain_one_is_another_without_its_optimizer():
    model = models.Branches()
    model.compile(keras_sam.SAMOptimizer("sgd"), LOSS, run_eagerly=True)
    model(X)
    plain = keras_sam.as_plain_model(model)
    assert type(plain) is models.Branches
    assert not plain.get_compile_config()
    assert model.compiled
    assert [id(v) for v in plain.weights] == [id(v) for v in model.weights]


def test_trainable_flags_are_those_of_the_model():
    plain = models.functional()
    plain.trainable = False
    plain.layers[-1].trainable = True
    model = keras_sam.as_sam_model(plain)
    assert model.trainable_variables == keras_sam.as_plain_model(model).trainable_variables == []
    assert plain.layers[-1].trainable


# Bodies that would be lost.


class OwnCall(keras_sam.SAMModel, keras.Sequential):
    def call(self, x, **kwargs):
        return 2 * super().call(x, **kwargs)


class OwnLoss(keras_sam.SAMModel, keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


class OwnConfig(keras_sam.SAMModel, models.Branches):
    def get_config(self):
        return {}


class OwnConstructor(keras_sam.SAMModel, models.Branches):
    def __init__(self):
        super().__init__(units=2)


class Base(keras_sam.SAMModel, keras.Model):
    pass


class OwnLayers(Base):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


class Doubling:
    def call(self, x):
        return 2 * super().call(x)


class TwoBases(keras_sam.SAMModel, Doubling, models.Branches):
    pass


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: models.sequential(OwnCall), r"`OwnCall\.call`.*or take `keras\.Sequential\(model\.layers\)`"),
        (lambda: models.functional(OwnLoss), r"`OwnLoss\.compute_loss`.*or take `keras\.Model\(model\.input"),
        (
            OwnConfig,
            r"A plain Branches .*`OwnConfig\.get_config`.*`class OwnConfig\(keras_sam\.SAMModel, Plain\)`\.",
        ),
        (OwnConstructor, r"`OwnConstructor\.__init__`"),
        (OwnLayers, r"A plain Model .*`OwnLayers\.__init__`, `OwnLayers\.call`"),
        (TwoBases, r"`Branches`"),
    ],
)
def test_a_body_that_would_be_lost_is_refused(make, what):
    with pytest.raises(TypeError, match=what):
        keras_sam.as_plain_model(make())


def test_a_sam_model_among_the_layers_is_refused():
    inner = models.sequential(SAMSequential)
    outer = keras.Sequential([keras.Input((6,)), inner, keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"'network', a layer of .* `keras_sam\.as_plain_model\(network\)`"):
        keras_sam.as_plain_model(outer)
    keras_sam.as_plain_model(keras.Sequential([keras.Input((6,)), keras_sam.as_plain_model(inner)]))


@pytest.mark.parametrize("thing", [keras.layers.Dense(1), "model", None, keras.Sequential])
def test_what_is_not_a_model_is_refused(thing):
    with pytest.raises(TypeError, match="`as_plain_model` takes a Keras model"):
        keras_sam.as_plain_model(thing)


# Twins of models that are not built yet.

UNBUILT = ["sequential without input", "subclass", "late subclass"]
BUILDERS = {
    "fit": lambda model, twin: twin.fit(X, Y, verbose=0),
    "call of the twin": lambda model, twin: twin(X),
    "build of the twin": lambda model, twin: twin.build((None, 6)),
    "call of the original": lambda model, twin: model(X),
    "build of the original": lambda model, twin: model.build((None, 6)),
}


@pytest.mark.parametrize(
    ("kind", "build"),
    # Keras itself builds nothing by `build` of a class that has none.
    [(kind, build) for kind in UNBUILT for build in BUILDERS if kind != "subclass" or not build.startswith("build")],
)
def test_twins_are_built_together(kind, build, tmp_path):
    model = TWINS[kind]()
    twin = keras_sam.as_sam_model(model)
    twin.compile(keras_sam.SAMOptimizer("adam"), LOSS, run_eagerly=True)
    BUILDERS[build](model, twin)
    plain = keras_sam.as_plain_model(twin)
    assert model.built
    assert twin.built
    assert plain.built
    weights = [id(v) for v in twin.weights]
    assert len(weights) >= 3
    assert [id(v) for v in model.weights] == [id(v) for v in plain.weights] == weights
    twin.fit(X, Y, verbose=0)
    assert [id(v) for v in twin.weights] == weights
    assert twin.optimizer.iterations > 0
    np.testing.assert_array_equal(predicted(model, kind), predicted(twin, kind))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predicted(loaded, kind), predicted(twin, kind), rtol=0, atol=1e-6)


def test_what_build_keeps_belongs_to_each_twin():
    model = models.Late()
    twin = keras_sam.as_sam_model(model)
    plain = keras_sam.as_plain_model(twin)
    twin.build((None, 6))
    for each in (model, twin, plain):
        assert each.rule.__self__ is each


def test_a_layer_that_is_added_later_is_both_models():
    model = models.sequential()
    twin = keras_sam.as_sam_model(model)
    model.add(keras.layers.Dense(2))
    assert predicted(twin, "sequential").shape == (12, 2)
    twin.pop()
    assert predicted(model, "sequential").shape == (12, 3)


# Files that nothing could load.

WRITERS = {
    "save": lambda model, path: model.save(path),
    "save_model": lambda model, path: keras.saving.save_model(model, path),
    "to_json": lambda model, path: model.to_json(),
    "checkpoint": lambda model, path: model.fit(X, Y, callbacks=keras.callbacks.ModelCheckpoint(path), verbose=0),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", ["subclass", "functional subclass"])
def test_a_file_that_nothing_can_load_is_warned_of(tmp_path, kind, write):
    model, _ = trained(kind, "twin")
    with pytest.warns(UserWarning, match=r"No file of SAM\w+ can be loaded.*as_plain_model.*class SAM\w+\(keras_sam"):
        WRITERS[write](model, tmp_path / "model.keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_files_that_can_be_loaded_are_not(tmp_path):
    twin, _ = trained("subclass", "twin")
    for model in (trained("subclass", "declared")[0], trained("sequential", "twin")[0]):
        model.save(tmp_path / "model.keras")
    twin.save_weights(tmp_path / "model.weights.h5")
    with keras.saving.custom_object_scope({"SAMBranches": type(twin)}), warnings.catch_warnings():
        warnings.filterwarnings("error", message="No file of")
        twin.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predicted(loaded, "subclass"), predicted(twin, "subclass"), rtol=0, atol=1e-6)


def test_a_clone_of_a_sequential_is_a_plain_one_that_says_what_it_needs():
    model, _ = trained("sequential", "declared")
    clone = keras.models.clone_model(model)
    assert type(clone) is keras.Sequential
    with pytest.raises(RuntimeError, match=r"as_sam_model\(model\)"):
        clone.fit(X, Y, verbose=0)
    assert type(keras.models.clone_model(trained("functional", "twin")[0])) is type(trained("functional", "twin")[0])


# Exports of the forward pass.


@pytest.mark.only("tensorflow", "torch")
@pytest.mark.filterwarnings("ignore")
def test_an_export_is_that_of_a_plain_model(tmp_path):
    model, _ = trained("sequential", "twin")
    expected = predicted(model, "sequential")[:1]
    if keras.backend.backend() == "torch":
        import torch

        model.export(tmp_path / "model.pt2", format="torch", verbose=False)
        found = torch.export.load(tmp_path / "model.pt2").module()(torch.tensor(X[:1])).detach().numpy()
    else:
        import tensorflow as tf

        model.export(tmp_path / "saved", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "saved")
        found = loaded.serve(X[:1]).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
