"""KerasTuner: a search over `rho` trains each trial with its own, and loads the best again."""

import re
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

import keras_sam

RADII = [0.0, 0.05, 0.5]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = np.tanh(X.sum(axis=1, keepdims=True))
DATA = {"validation_data": (X, Y), "batch_size": 16, "epochs": 1, "shuffle": False, "verbose": 0}


def make_model(rho=None):
    """A network compiled with SGD alone, or with SAM around it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)
    if rho is not None:
        model, optimizer = keras_sam.as_sam_model(model), keras_sam.SAMOptimizer(optimizer, rho=rho)
    model.compile(optimizer, loss="mse")
    return model


@pytest.fixture(params=[keras_tuner.GridSearch, keras_tuner.RandomSearch], scope="module")
def searched(request, tmp_path_factory):
    """The tuner after its search, and the radii of the optimizers that took part."""
    trained = []

    class Radius(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            trained.append(self.model.optimizer.rho)

        def __deepcopy__(self, memo):  # the tuner gives each trial a copy
            return type(self)()

    tuner = request.param(
        lambda hp: make_model(hp.Choice("rho", RADII)),
        objective="val_loss",
        max_trials=3,
        directory=tmp_path_factory.mktemp("search"),
    )
    tuner.search(X, Y, callbacks=[Radius()], **DATA)
    return tuner, trained


def test_every_radius_reached_its_optimizer_and_its_score(searched):
    tuner, trained = searched
    scores = {trial.hyperparameters["rho"]: trial.score for trial in tuner.oracle.trials.values()}
    assert sorted(trained) == sorted(scores) == RADII
    assert scores[0.0] == pytest.approx(make_model().fit(X, Y, **DATA).history["val_loss"][-1], abs=1e-5)
    assert len({round(score, 4) for score in scores.values()}) == len(RADII)


def test_best_model_is_loaded_with_its_radius_and_weights(searched):
    tuner, _ = searched
    best = tuner.oracle.get_best_trials()[0]
    (model,) = tuner.get_best_models()
    assert model.optimizer.rho == best.hyperparameters["rho"]
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(best.score, abs=1e-5)


def test_optimizer_of_the_tuner_replaces_that_of_the_model(tmp_path):
    """KerasTuner makes it anew from its configuration."""
    tuner = keras_tuner.RandomSearch(
        lambda hp: make_model(rho=1e-300),
        max_trials=1,
        optimizer=keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5),
        directory=tmp_path,
        objective="val_loss",
    )
    tuner.search(X, Y, **DATA)
    expected = make_model(rho=0.5).fit(X, Y, **DATA).history["val_loss"][-1]
    assert tuner.oracle.get_best_trials()[0].score == pytest.approx(expected, abs=1e-5)


def test_search_of_the_documentation(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "choosing_rho.md").read_text()
    (code,) = re.findall(r"^<!-- keras_tuner -->\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "choosing_rho.md", "exec"), {"__name__": "__main__"})
    assert "'rho': " in capsys.readouterr().out
