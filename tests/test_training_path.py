"""The path of a training: what is kept against published trajectories, its plane against dense linear algebra."""

import keras
import numpy as np
import pytest
import reference
from conftest import weights_of

import keras_sam
from keras_sam import analysis
from keras_sam.analysis.training_path import projected
from keras_sam.callbacks import WeightPath

X = np.concatenate(reference.TRAJECTORIES["x"]).astype("float32")
Y = np.concatenate(reference.TRAJECTORIES["y"])
OPTIMIZERS = {
    "sgd": lambda: sgd(),
    "sam": lambda: keras_sam.SAMOptimizer(sgd(), rho=0.05),
    "msam": lambda: keras_sam.MSAMOptimizer(sgd(), rho=0.3),
}


def sgd():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def fit(model, *callbacks, epochs=1):
    model.fit(X, Y, batch_size=16, shuffle=False, epochs=epochs, verbose=0, callbacks=list(callbacks))


def published(case):
    return np.concatenate([reference.TRAJECTORIES["initial"][None], reference.TRAJECTORIES[f"{case}/weights"]])


@pytest.fixture
def trained(two_layer):
    """A model and the path of ten epochs of its training."""
    model, keep = two_layer(OPTIMIZERS["sam"]()), WeightPath()
    fit(model, keep, epochs=10)
    return model, keep.path


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_steps_are_those_of_the_published_trajectory(two_layer, case):
    keep = WeightPath(save_freq=1)
    fit(two_layer(OPTIMIZERS[case]()), keep)
    assert keep.path.steps.tolist() == list(range(9))
    assert keep.path.weights.dtype == "float32"
    np.testing.assert_allclose(keep.path.weights, published(case), atol=2e-5)


def test_some_steps_only(two_layer):
    keep = WeightPath(save_freq=3)
    fit(two_layer(OPTIMIZERS["sam"]()), keep)
    assert keep.path.steps.tolist() == [0, 3, 6, 8]  # the start and the end too
    np.testing.assert_allclose(keep.path.weights, published("sam")[[0, 3, 6, 8]], atol=2e-5)


@pytest.mark.only("tensorflow", "jax")
def test_several_steps_in_one_execution(two_layer):
    keep = WeightPath(save_freq=3)
    fit(two_layer(sgd(), steps_per_execution=2), keep, epochs=2)
    assert keep.path.steps.tolist() == [0, 4, 8, 12, 16]


def test_another_training_goes_on_and_another_model_begins_anew(two_layer):
    keep, model = WeightPath(), two_layer(sgd())
    for _ in range(2):
        fit(model, keep, epochs=2)
    assert keep.path.steps.tolist() == [0, 8, 16, 24, 32]
    assert (keep.path.weights[-1] == weights_of(model).astype("float32")).all()
    fit(two_layer(sgd()), keep)
    assert keep.path.steps.tolist() == [0, 8]


def test_an_interrupted_training_has_a_path(two_layer):
    def interrupt(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    keep = WeightPath()
    with pytest.raises(KeyboardInterrupt):
        fit(two_layer(sgd()), keep, keras.callbacks.LambdaCallback(on_epoch_begin=interrupt), epochs=3)
    assert keep.path.steps.tolist() == [0, 8]


def test_frozen_weights_and_statistics_are_left_out(noisy_network, classification):
    model, keep = noisy_network("sgd"), WeightPath()
    model.layers[-1].trainable = False
    model.compile("sgd", model.loss)
    model.fit(*classification, verbose=0, callbacks=[keep])
    np.testing.assert_array_equal(keep.path.weights[-1], reference.flatten(model.trainable_variables).astype("float32"))


def test_projections_are_of_the_same_path(two_layer):
    whole, few = WeightPath(), WeightPath(projections=40, seed=3)
    fit(two_layer(sgd()), whole, few, epochs=3)
    assert few.path.projected
    assert few.path.weights.shape == (4, 40)
    expected = [projected(reference.unflatten(w), 40, 3) for w in whole.path.weights]
    np.testing.assert_allclose(few.path.weights, expected, atol=1e-5)


def test_projections_keep_scalar_products():
    rng = np.random.default_rng(0)
    a, b = (reference.unflatten(v) for v in rng.normal(size=(2, 83)))
    exact = reference.flatten(a) @ reference.flatten(b)
    found = [projected(a, 20, seed) @ projected(b, 20, seed) for seed in range(2000)]
    lengths = np.linalg.norm(reference.flatten(a)), np.linalg.norm(reference.flatten(b))
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / np.sqrt(2000))
    # As with a dense Gaussian matrix, at most.
    assert np.std(found) < 1.1 * np.sqrt((exact**2 + np.prod(lengths) ** 2) / 20)
    assert (projected(a, 20, 0) == projected(a, 20, 0)).all()
    assert not (projected(a, 20, 0) == projected(a, 20, 1)).any()


def test_the_plane_is_that_of_the_dense_scatter_matrix(trained):
    _, path = trained
    away = path.weights.astype("float64") - path.weights[-1]
    values, vectors = np.linalg.eigh(away.T @ away)  # 83 by 83
    directions, coordinates, explained = path.principal_plane()
    np.testing.assert_allclose(np.abs(directions @ vectors[:, [-1, -2]]), np.eye(2), atol=1e-5)
    np.testing.assert_allclose(explained, values[[-1, -2]] / values.sum(), rtol=1e-6)
    np.testing.assert_allclose(coordinates, away @ directions.T, atol=1e-12)
    assert (coordinates[0] < 0).all()
    assert not coordinates[-1].any()


def test_losses_are_those_of_evaluate(trained):
    model, path = trained
    plane = analysis.path_landscape(model, path, X, Y, points=4, margin=0.5)
    directions, coordinates, explained = path.principal_plane()
    np.testing.assert_array_equal(plane.path, coordinates)
    np.testing.assert_array_equal(plane.explained, explained)
    low, high = coordinates.min(0), coordinates.max(0)
    for axis, found in enumerate((plane.first, plane.second)):
        extent = high[axis] - low[axis]
        ends = low[axis] - 0.5 * extent, high[axis] + 0.5 * extent
        np.testing.assert_allclose(found[[0, -1]], ends)
    for i, j in [(0, 0), (1, 2), (3, 1)]:
        weights = path.weights[-1] + plane.first[i] * directions[0] + plane.second[j] * directions[1]
        model.set_weights(reference.unflatten(weights))
        assert plane.losses[i, j] == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)


def test_the_model_does_not_matter_and_stays(trained):
    model, path = trained
    before = analysis.path_landscape(model, path, X, Y, points=2)
    model.set_weights([0 * w for w in model.get_weights()])
    after = analysis.path_landscape(model, path, X, Y, points=2)
    np.testing.assert_array_equal(before.losses, after.losses)
    assert not weights_of(model).any()


@pytest.mark.parametrize("result", ["path", "landscape"])
def test_saved_and_loaded(trained, tmp_path, result):
    model, path = trained
    kept = path if result == "path" else analysis.path_landscape(model, path, X, Y, points=2)
    kept.save(tmp_path / "result.npz")
    loaded = type(kept).load(tmp_path / "result.npz")
    for a, b in zip(loaded.to_dict().values(), kept.to_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert type(a) is type(b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeightPath(save_freq=0), r"`save_freq` must be an integer >= 1 or 'epoch'. Received: save_freq=0"),
        (lambda: WeightPath(save_freq="batch"), r"Received: save_freq='batch'"),
        (lambda: WeightPath(projections=1), r"`projections` must be an integer >= 2 or None. Received: projections=1"),
        (lambda: WeightPath().path, r"There is no path before a training"),
    ],
)
def test_bad_input_of_the_callback(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_paths_that_have_no_plane(trained):
    model, path = trained
    line = analysis.TrainingPath(np.arange(3.0)[:, None] * np.ones((3, 83), "float32"), np.arange(3), False)
    short = analysis.TrainingPath(path.weights[:2], path.steps[:2], False)
    few = analysis.TrainingPath(path.weights[:, :10], path.steps, True)
    other = analysis.TrainingPath(path.weights[:, :10], path.steps, False)
    for each, message in (
        (line, "at least three points that are not on a line"),
        (short, "Received: 2 points"),
        (few, r"`WeightPath\(projections=None\)`.* Received: 10 projections"),
        (other, "which has 83 trainable weights now. Received: a path of 10"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.path_landscape(model, each, X, Y)
    with pytest.raises(ValueError, match="`margin` must be a float >= 0"):
        analysis.path_landscape(model, path, X, Y, margin=-1)


def test_plot(trained, tmp_path):
    model, path = trained
    plane = analysis.path_landscape(model, path, X, Y, points=5)
    lower = analysis.PathLandscape(plane.first, plane.second, plane.losses / 10, plane.path, plane.explained)
    drawn = analysis.plot_path({"SGD": plane, "SAM": lower, "alone": path})
    assert [ax.get_title() for ax in drawn] == ["SGD", "SAM", "alone"]
    scales = [(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in drawn[:2]]
    assert scales[0] == scales[1] == pytest.approx((plane.losses.min() / 10, plane.losses.max()))
    assert not drawn[2].collections
    for ax in drawn:
        way, start, end = ax.lines
        np.testing.assert_array_equal(way.get_xydata(), plane.path)
        np.testing.assert_array_equal(start.get_xydata(), plane.path[:1])
        np.testing.assert_array_equal(end.get_xydata(), plane.path[-1:])
        assert ax.get_ylabel() == f"second direction ({plane.explained[1]:.1%} of the variance)"
    drawn[0].figure.savefig(tmp_path / "paths.png")
    with pytest.raises(ValueError, match=r"one `ax` for each path. Received: 1 for 2 paths"):
        analysis.plot_path({"a": plane, "b": plane}, drawn[0])
