"""The sweep of the radius: what it finds, and that it leaves nothing behind."""

import json

import family
import keras
import numpy as np
import pytest
from conftest import SAMSequential

import keras_sam
from keras_sam import analysis
from keras_sam.analysis import rho_sweep

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = np.argmax(X[:, :3], axis=-1)
X_VAL = RNG.normal(size=(32, 6)).astype("float32")
Y_VAL = np.argmax(X_VAL[:, :3], axis=-1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SWEEP = {"epochs": 2, "batch_size": 16, "validation_data": (X_VAL, Y_VAL), "verbose": 0}


def network(name="sam", rho=0.1, built=True):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dropout(0.2, seed=3), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = SAMSequential([keras.Input((6,)), *layers] if built else layers)
    model.compile(family.make(name, rho=rho, base=keras.optimizers.SGD(0.5, momentum=0.9)), LOSS, metrics=["accuracy"])
    return model


def state(model):
    every = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in every]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_training_is_the_one_that_fit_would_make():
    sweep = keras_sam.find_rho(network(), X, Y, rhos=[0.4, 0.0], monitor="val_accuracy", **SWEEP)
    np.testing.assert_array_equal(sweep.rhos, [0.0, 0.4])
    for row, rho in enumerate(sweep.rhos):
        model = network(rho=float(rho))
        keras.utils.set_random_seed(0)
        seeds = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: keras.utils.set_random_seed(0))
        logs = model.fit(X, Y, callbacks=[seeds], **SWEEP).history
        np.testing.assert_allclose(sweep.validation[row], logs["val_accuracy"], atol=1e-6)
        np.testing.assert_allclose(sweep.train[row], logs["accuracy"], atol=1e-6)
    assert sweep.monitor == "val_accuracy"


@pytest.mark.parametrize("name", ["sam", "looksam"])
def test_the_model_comes_out_as_it_went_in(name):
    model, twin = network(name), network(name)
    for each in (model, twin):
        keras.utils.set_random_seed(4)
        each.fit(X, Y, batch_size=16, verbose=0)
    before, rho, history = state(model), model.optimizer.rho, model.history
    keras_sam.find_rho(model, X, Y, rhos=[0.0, 0.3], **SWEEP)
    assert_same(state(model), before)
    assert (model.optimizer.rho, model.history) == (rho, history)
    for each in (model, twin):  # and goes on with the steps that it had, at its own radius
        keras.utils.set_random_seed(5)
        each.fit(X, Y, batch_size=16, verbose=0)
    assert_same(state(model), state(twin))


def test_also_after_an_interrupt():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    model = network()
    expected = network()
    expected.optimizer.build(expected.trainable_variables)
    with pytest.raises(KeyboardInterrupt):
        keras_sam.find_rho(model, X, Y, callbacks=Stop(), **SWEEP)
    assert_same([np.array(w) for w in model.get_weights()], expected.get_weights())
    assert_same(
        [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables],
        [keras.ops.convert_to_numpy(v) for v in expected.optimizer.variables],
    )
    assert model.optimizer.rho == 0.1
    model.fit(X, Y, verbose=0)


@pytest.fixture
def trained(monkeypatch):
    """The radii that are trained with, of which no more is done; the third training is interrupted."""
    seen = []

    def fit(model, progress, seed, options):
        if len(seen) == 2 and seed == 0:
            raise KeyboardInterrupt
        rho = model.optimizer.rho
        seen.append(rho)
        return {"loss": [1.0, 0.5], "val_loss": [1.0, getattr(rho, "rho", rho)], "val_accuracy": [0.1, 0.2]}

    monkeypatch.setattr(rho_sweep, "_fit", fit)
    return seen


def test_a_sweep_goes_on_where_it_stopped(tmp_path, trained):
    path = tmp_path / "sweep.json"
    options = SWEEP | {"rhos": [0.0, 0.1, 0.2], "path": path}
    with pytest.raises(KeyboardInterrupt):
        keras_sam.find_rho(network(), X, Y, **options)
    assert trained == [0.0, 0.1]
    trained.clear()
    found = keras_sam.find_rho(network(), X, Y, **options)
    assert trained == [0.2]
    np.testing.assert_array_equal(found.validation[:, -1], [0.0, 0.1, 0.2])
    assert json.loads(path.read_text())["settings"]["epochs"] == 2
    assert keras_sam.find_rho(network(), X, Y, **options).reason == found.reason  # where nothing is left to do
    for other in ({"epochs": 1}, {"seed": 4}, {"monitor": "val_accuracy"}, {"mode": "max"}):
        with pytest.raises(ValueError, match="`path` must be of the same sweep"):
            keras_sam.find_rho(network(), X, Y, **options | other)
    model = network()
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="`path` must be of the same sweep"):
        keras_sam.find_rho(model, X, Y, **options)


def test_radii_go_around_that_of_the_optimizer_and_keep_its_times(trained):
    rising = keras_sam.RhoWarmup(0.2, warmup=0.5, begin=0.1)
    sweep = keras_sam.find_rho(network(rho=rising), X, Y, **SWEEP | {"seed": 1})
    np.testing.assert_allclose(sweep.rhos, [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
    assert [(rho.rho, rho.warmup, rho.begin, rho.end) for rho in trained] == [(r, 0.5, 0.1, None) for r in sweep.rhos]


RUN = {"train": [2.0, 1.0], "collapsed": False}


@pytest.mark.parametrize(
    ("runs", "is_max", "rho", "reason"),
    [
        ([(1.0, 0), (0.8, 0), (0.9, 0)], False, 0.1, "best at rho=0.1: 0.8, where the base optimizer alone has 1."),
        ([(1.0, 0), (0.8, 0), (0.9, 0)], True, 0.0, "so that SAM brings nothing in so many epochs."),
        ([(1.0, 0), (0.8, 0), (0.5, 0)], False, 0.2, "the largest that was tried, so try larger ones too."),
        ([(1.0, 0), (0.8, 0), (0.5, 1)], False, 0.1, "with 0.2 the training has collapsed"),
        ([(1.0, 0), (0.9, 0), (np.nan, 0)], False, 0.1, "with 0.2 the training has collapsed"),
        ([(1.0, 1), (1.0, 1), (1.0, 1)], False, 0.0, "No radius has learned anything"),
    ],
)
def test_recommendation(runs, is_max, rho, reason):
    runs = [RUN | {"validation": [2.0, last], "collapsed": bool(fell), "max": is_max} for last, fell in runs]
    found = rho_sweep._result([0.0, 0.1, 0.2], runs, "val_x")
    assert found.rho == rho
    assert reason in found.reason


def test_a_radius_that_is_too_large_is_marked():
    model = SAMSequential(
        [keras.Input((6,)), *(keras.layers.Dense(32, "relu") for _ in range(2)), keras.layers.Dense(3)]
    )
    model.compile(keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), LOSS)
    sweep = keras_sam.find_rho(model, X, Y, rhos=[0.05, 50.0], **SWEEP | {"epochs": 12})
    np.testing.assert_array_equal(sweep.collapsed, [False, True])
    assert sweep.rho == 0.05


def test_more_or_less_as_keras_says_or_as_one_says():
    model = network()
    model.fit(X, Y, verbose=0)
    assert rho_sweep._is_max(model, "val_accuracy", "auto")
    assert not rho_sweep._is_max(model, "val_loss", "auto")
    assert rho_sweep._is_max(model, "val_loss", "max")


def test_a_training_that_ends_early_has_a_shorter_row():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = self.model.optimizer.rho > 0.1

    sweep = keras_sam.find_rho(network(), X, Y, rhos=[0.1, 0.2], callbacks=[Stop()], **SWEEP)
    assert np.isfinite(sweep.validation).sum(axis=1).tolist() == [2, 1]


def test_result_is_saved_loaded_and_drawn(tmp_path):
    result = analysis.RhoSweep(
        np.array([0.0, 0.1, 0.2]),
        np.array([[1.0], [0.9], [2.3]]),
        np.array([[1.1], [0.8], [2.3]]),
        np.array([False, False, True]),
        "val_loss",
        0.1,
        "so it is.",
    )
    result.save(tmp_path / "sweep.npz")
    again = analysis.RhoSweep.load(tmp_path / "sweep.npz")
    assert (again.rho, again.reason, again.monitor) == (0.1, "so it is.", "val_loss")
    ax = analysis.plot_rho_sweep(again)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.1", "0.2"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "validation", "collapsed", "recommended"]
    ax.figure.savefig(tmp_path / "sweep.png")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rhos": [-1.0]}, ValueError, "`rhos` must be floats >= 0"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer >= 1"),
        ({"validation_data": None}, ValueError, "pass `validation_data` or `validation_split`"),
        ({"monitor": "val_auc", "epochs": 1}, ValueError, r"`monitor` must be one of .*'val_loss'"),
        ({"x": iter([])}, ValueError, "which a generator cannot"),
        ({"model": lambda: network(rho=0.0)}, ValueError, "`rhos` must be given"),
        ({"model": lambda: network(rho=keras.optimizers.schedules.CosineDecay(0.1, 5))}, TypeError, "must be a float"),
        ({"model": lambda: network(built=False)}, ValueError, "call it on data once"),
        ({"model": lambda: plain()}, TypeError, "compiled with a SAM optimizer"),
    ],
)
def test_what_is_refused(change, error, message):
    model = change.pop("model", network)()
    with pytest.raises(error, match=message):
        keras_sam.find_rho(model, change.pop("x", X), Y, **SWEEP | change)


def plain():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("sgd", LOSS)
    return model
