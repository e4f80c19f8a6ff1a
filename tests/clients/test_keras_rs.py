"""KerasRS: a ranking model with its layers, losses and metrics trains with SAM."""

import keras
import keras_rs
import numpy as np
import pytest

import keras_sam

LOSSES = {"hinge": keras_rs.losses.PairwiseHingeLoss, "listmle": keras_rs.losses.ListMLELoss}
RNG = np.random.default_rng(0)
X = {
    "user": RNG.integers(0, 10, size=(64,)).astype("int32"),
    "items": RNG.integers(0, 20, size=(64, 6)).astype("int32"),
}
Y = (X["items"] % 4 + X["user"][:, None] % 2 * (X["items"] % 3)).astype("float32")


def make_model():
    """Scores of six items for a user, by a deep and cross network."""
    keras.utils.set_random_seed(0)
    user, items = keras.Input((), name="user", dtype="int32"), keras.Input((6,), name="items", dtype="int32")
    query = keras.layers.RepeatVector(6)(keras.layers.Embedding(10, 4)(user))
    features = keras.layers.Concatenate()([query, keras.layers.Embedding(20, 4)(items)])
    crossed = keras_rs.layers.FeatureCross()(features, features)
    scores = keras.layers.Reshape((6,))(keras.layers.Dense(1)(keras.layers.Dense(16, activation="relu")(crossed)))
    return keras.Model({"user": user, "items": items}, scores)


def trained(loss, rho=None, epochs=2):
    model = make_model()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    if rho is not None:
        model, optimizer = keras_sam.as_sam_model(model), keras_sam.SAMOptimizer(optimizer, rho=rho)
    model.compile(optimizer, loss=LOSSES[loss](), metrics=[keras_rs.metrics.NDCG(name="ndcg")])
    history = model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]), history


@pytest.mark.parametrize("loss", LOSSES)
def test_trains_as_without_at_rho_0_and_differs_from_it_at_others(loss):
    weights, history = trained(loss)
    same, same_history = trained(loss, rho=1e-300)
    np.testing.assert_allclose(same, weights, atol=1e-5)
    np.testing.assert_allclose(same_history["ndcg"], history["ndcg"], atol=1e-5)
    assert np.abs(trained(loss, rho=0.1)[0] - weights).max() > 1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_better_after_training(loss):
    _, history = trained(loss, rho=0.1, epochs=15)
    assert history["ndcg"][-1] > history["ndcg"][0] + 0.05
    assert np.isfinite(history["sharpness"]).all()
