"""scikit-learn: a grid search over `rho`, with Keras's wrapper around the network."""

import keras
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score

import keras_sam

RADII = [0.0, 0.05, 2.0]
FEATURES, LABELS = make_classification(90, 6, n_informative=4, n_classes=3, random_state=0)
FIT = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0}


def make_model(X, y, rho=None):  # noqa: N803 - so the wrapper calls it
    """A network for the data, compiled with SGD alone or with SAM around it."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(y.shape[1], activation="softmax")]
    model, optimizer = keras.Sequential([keras.Input((X.shape[1],)), *layers]), keras.optimizers.SGD(0.1)
    if rho is not None:
        model, optimizer = keras_sam.as_sam_model(model), keras_sam.SAMOptimizer(optimizer, rho=rho)
    model.compile(optimizer, loss="categorical_crossentropy")
    return model


def score(classifier, x, y):
    """Minus the cross entropy, which unlike the accuracy shows small differences."""
    return -classifier.model_.evaluate(x, np.eye(3)[y], verbose=0)


@pytest.fixture(scope="module")
def search():
    grid = {"model_kwargs": [{"rho": rho} for rho in RADII]}
    classifier = keras.wrappers.SKLearnClassifier(make_model)
    return GridSearchCV(classifier, grid, scoring=score, cv=3, error_score="raise").fit(FEATURES, LABELS, **FIT)


def test_every_radius_has_a_score_of_its_own_and_0_that_of_the_base_optimizer(search):
    found = search.cv_results_["mean_test_score"]
    plain = cross_val_score(
        keras.wrappers.SKLearnClassifier(make_model), FEATURES, LABELS, scoring=score, cv=3, params=FIT
    )
    assert found[0] == pytest.approx(plain.mean(), abs=1e-5)
    assert len({round(each, 4) for each in found}) == len(RADII)


def test_best_radius_trains_the_model_that_predicts(search):
    best = search.best_estimator_
    assert best.model_.optimizer.rho == search.best_params_["model_kwargs"]["rho"]
    assert "sharpness" in best.history_.history
    np.testing.assert_array_equal(search.predict(FEATURES), best.model_.predict(FEATURES, verbose=0).argmax(axis=1))
