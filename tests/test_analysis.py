"""Measures of sharpness against dense Hessians and closed forms, and that they leave the model alone."""

import re

import keras
import numpy as np
import pytest
from conftest import SAMSequential
from keras import layers

import keras_sam
from keras_sam import analysis
from keras_sam.analysis.objective import Objective, flatten, unflatten
from keras_sam.models.batches import Batches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 5)).astype("float32"), rng.integers(0, 3, 50)


@pytest.fixture
def model():
    """Batch norm with statistics, dropout and a regularizer; 81 weights."""
    model = SAMSequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(2)
    model.set_weights([w + rng.uniform(0, 0.2, w.shape) for w in model.get_weights()])
    model.compile(keras_sam.SAMOptimizer("adam"), LOSS, metrics=["accuracy"])
    return model


@pytest.fixture
def trained(model, data):
    """With the state of an optimizer and of metrics."""
    model.fit(*data, batch_size=10, epochs=2, verbose=0)
    return model


@pytest.fixture
def dense_hessian(model, data):
    """By the backend's own differentiation, all at once."""
    objective = Objective(model, list(Batches(*data, batch_size=50)))
    ((batch, _),) = objective.batches

    def loss(vector):
        ends = np.cumsum([int(np.prod(shape)) for shape in objective.shapes])
        parts = [
            keras.ops.reshape(vector[end - int(np.prod(shape)) : end], shape)
            for end, shape in zip(ends, objective.shapes, strict=True)
        ]
        return objective._loss(parts, batch)

    start = keras.ops.convert_to_tensor(objective.start, "float32")
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.hessian(loss)(start))
    if keras.backend.backend() == "torch":
        import torch

        return torch.autograd.functional.hessian(loss, start).numpy()
    import tensorflow as tf

    with tf.GradientTape() as outer:
        outer.watch(start)
        with tf.GradientTape() as inner:
            inner.watch(start)
            value = loss(start)
        slope = inner.gradient(value, start)
    return outer.jacobian(slope, start).numpy()


def quadratic(matrix, weights):
    """A model whose loss is the mean of (x w)², with the Hessian 2 mean(x x')."""
    model = keras.Sequential([keras.Input((len(weights),)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.reshape(weights, (-1, 1))])
    model.compile(loss="mse")
    x = np.asarray(matrix, "float32")
    return model, x, np.zeros((len(x), 1), "float32")


def test_eigenvalues_equal_those_of_the_dense_hessian(model, data, dense_hessian):
    expected = np.linalg.eigvalsh(dense_hessian)
    largest = analysis.hessian_eigenvalues(model, *data, k=4, tolerance=1e-5)
    np.testing.assert_allclose(largest.values, expected[::-1][:4], rtol=1e-4)
    assert largest.converged
    assert largest.vectors.shape == (len(expected), 4)
    np.testing.assert_allclose(np.linalg.norm(largest.vectors, axis=0), 1.0, atol=1e-6)
    assert (largest.residuals < 1e-3 * largest.values).all()
    assert largest.products >= 10
    smallest = analysis.hessian_eigenvalues(model, *data, k=1, which="SA", tolerance=1e-5)
    assert expected[0] < -1e-3
    np.testing.assert_allclose(smallest.values, expected[:1], rtol=1e-4)


def test_a_negative_eigenvalue():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[0.0], [0.0]])])
    model.compile(loss=lambda y, p: p**2 - y * p**2)  # y = 0: curvature 2; y = 4: curvature -6
    x, y = np.eye(2, dtype="float32"), np.array([[0.0], [4.0]], "float32")
    found = analysis.hessian_eigenvalues(model, x, y, k=1, which="LM")
    np.testing.assert_allclose(found.values, [-3.0], rtol=1e-5)


def test_all_eigenvalues_of_a_single_weight():
    found = analysis.hessian_eigenvalues(*quadratic([[1.0], [2.0]], [0.0]), k=1)
    np.testing.assert_allclose(found.values, [5.0], rtol=1e-6)  # 2 mean(1, 4)
    assert found.products == 1


def test_too_few_iterations_are_reported(model, data):
    found = analysis.hessian_eigenvalues(model, *data, k=8, tolerance=1e-12, max_iterations=1)
    assert found.converged is False
    assert len(found.values) < 8


def test_trace_equals_that_of_the_dense_hessian(model, data, dense_hessian):
    expected = np.trace(dense_hessian)
    exact = analysis.hessian_trace(model, *data, samples=len(dense_hessian))
    assert exact.value == pytest.approx(expected, rel=1e-4)
    assert (exact.standard_error, exact.products) == (0.0, len(dense_hessian))
    estimate = analysis.hessian_trace(model, *data, samples=40, seed=1, method="hutchinson")
    vectors = np.random.default_rng(1).choice([-1.0, 1.0], (40, len(dense_hessian)))
    found = np.einsum("si,ij,sj->s", vectors, dense_hessian, vectors)
    assert estimate.value == pytest.approx(found.mean(), rel=1e-4)
    assert estimate.standard_error == pytest.approx(found.std(ddof=1) / np.sqrt(40), rel=1e-3)
    assert abs(estimate.value - expected) < 4 * estimate.standard_error


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_of_an_isotropic_quadratic(adaptive):
    model, x, y = quadratic(np.sqrt(2) * np.eye(2), [3.0, 4.0])  # the loss is ‖w‖²
    expected = 5.5**2 - 5**2
    if adaptive:  # e = 0.5 * w² g / ‖w g‖ with g = 2 w
        w = np.array([3.0, 4.0])
        expected = np.sum((w + 0.5 * w**3 / np.linalg.norm(w**2)) ** 2) - 25
    assert analysis.sharpness(model, x, y, rho=0.5, adaptive=adaptive) == pytest.approx(expected, rel=1e-5)
    assert analysis.sharpness(model, x, y, rho=0.0) == 0.0


def test_sharpness_with_many_steps_finds_the_worst_point():
    scales, w = np.array([3.0, 1.0, 0.5]), np.array([0.1, 1.0, -2.0])
    model, x, y = quadratic(np.sqrt(3) * np.diag(np.sqrt(scales)), w)  # the loss is scales · w²
    # The maximum on the sphere: e = (mu - scales)^-1 scales w, with mu such that ‖e‖ = rho.
    low, high = 3.0, 1e3
    for _ in range(200):
        mu = (low + high) / 2
        e = scales * w / (mu - scales)
        low, high = (mu, high) if np.linalg.norm(e) > 0.7 else (low, mu)
    exact = scales @ (w + e) ** 2 - scales @ w**2
    found = [analysis.sharpness(model, x, y, rho=0.7, ascent_steps=steps) for steps in (1, 2, 4, 8, 60)]
    assert found == sorted(found)
    assert found[0] < 0.95 * exact
    assert found[-1] == pytest.approx(exact, rel=1e-4)


def test_more_ascent_steps_never_find_less(model, data):
    found = [analysis.sharpness(model, *data, rho=2.0, ascent_steps=steps) for steps in (1, 2, 3, 6)]
    assert found == sorted(found)
    assert found[0] > 0.1


def test_sharpness_of_groups_is_the_mean_of_each(model, data):
    x, y = data
    parts = [analysis.sharpness(model, x[i : i + 20], y[i : i + 20], rho=0.5) for i in (0, 20, 40)]
    expected = np.average(parts, weights=[20, 20, 10])
    assert analysis.sharpness(model, x, y, rho=0.5, m=20) == pytest.approx(expected, rel=1e-4)
    assert expected > analysis.sharpness(model, x, y, rho=0.5)
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    assert analysis.sharpness(model, batches, rho=0.5, m=20) == pytest.approx(expected, rel=1e-4)


def test_landscape_is_the_evaluated_loss_in_the_middle(model, data):
    line = analysis.loss_landscape(model, *data, points=5, span=0.8)
    np.testing.assert_allclose(line.coordinates, [-0.8, -0.4, 0.0, 0.4, 0.8])
    assert line.losses[2] == pytest.approx(model.evaluate(*data, verbose=0, return_dict=True)["loss"], rel=1e-5)
    assert line.losses.max() > line.losses[2] + 0.01


def test_a_plane_agrees_with_its_lines(model, data):
    rng = np.random.default_rng(5)
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    first, second = rng.normal(size=(2, size)) / 10
    plane = analysis.loss_landscape(model, *data, points=3, directions=[first, second])
    along = analysis.loss_landscape(model, *data, points=3, directions=[first])
    across = analysis.loss_landscape(model, *data, points=3, directions=[second])
    np.testing.assert_allclose(plane.losses[:, 1], along.losses, rtol=1e-6)
    np.testing.assert_allclose(plane.losses[1], across.losses, rtol=1e-6)
    random_line = analysis.loss_landscape(model, *data, points=3, seed=4)
    random_plane = analysis.loss_landscape(model, *data, points=3, seed=4, dimensions=2)
    np.testing.assert_allclose(random_plane.losses[:, 1], random_line.losses, rtol=1e-6)


def test_directions_have_the_norm_of_each_filter():
    from keras_sam.analysis.landscape import filter_normalized

    rng = np.random.default_rng(0)
    shapes = [(3, 3, 2, 4), (4,), (4, 5), (5,)]
    weights = rng.normal(size=sum(int(np.prod(s)) for s in shapes))
    found = unflatten(filter_normalized(rng, weights, shapes), shapes)
    for d, w in zip(found[::2], unflatten(weights, shapes)[::2], strict=True):
        for filter_index in range(w.shape[-1]):
            assert np.linalg.norm(d[..., filter_index]) == pytest.approx(np.linalg.norm(w[..., filter_index]))
    assert not found[1].any()
    assert not found[3].any()


def test_interpolation_ends_at_both_solutions(trained, data):
    solutions, losses = [], []
    for _ in range(2):
        solutions.append(trained.get_weights())
        losses.append(trained.evaluate(*data, verbose=0, return_dict=True)["loss"])
        trained.fit(*data, epochs=3, verbose=0)
    line = analysis.interpolate(trained, *solutions, *data, margin=0.5, points=5)
    np.testing.assert_allclose(line.coordinates, [-0.5, 0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(line.losses[[1, 3]], losses, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`weights_b` must have the shapes of `model.get_weights"):
        analysis.interpolate(trained, solutions[0], solutions[1][:-1], *data)


class Sequence(keras.utils.PyDataset):
    """Batches of seven."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 7)

    def __getitem__(self, index):
        return self.x[7 * index : 7 * index + 7], self.y[7 * index : 7 * index + 7]


def measures(model, *data, **options):
    return [
        analysis.sharpness(model, *data, rho=0.3, **options),
        analysis.hessian_eigenvalues(model, *data, k=1, tolerance=1e-8, **options).values[0],
        analysis.hessian_trace(model, *data, samples=6, **options).value,
        *analysis.loss_landscape(model, *data, points=3, **options).losses,
    ]


def test_batches_make_no_difference(model, data):
    expected = measures(model, *data, batch_size=50)
    np.testing.assert_allclose(measures(model, *data, batch_size=7), expected, rtol=1e-5)
    np.testing.assert_allclose(measures(model, Sequence(*data)), expected, rtol=1e-5)
    np.testing.assert_allclose(measures(model, [Sequence(*data)[i] for i in range(8)]), expected, rtol=1e-5)


@pytest.mark.only("tensorflow")
def test_tf_data(model, data):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data).batch(7)
    np.testing.assert_allclose(measures(model, dataset), measures(model, *data, batch_size=50), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
def test_half_precision_is_measured_in_float32(data, policy):
    def network(policy):
        hidden = layers.Dense(8, activation="tanh", dtype=policy, name="hidden")
        return keras.Sequential([keras.Input((5,)), hidden, layers.Dense(3, dtype=policy, name="out")])

    narrow, wide = network(policy), network("float32")
    for each in (narrow, wide):
        each.compile(loss=LOSS)
    wide.set_weights([w.astype("float32") for w in narrow.get_weights()])
    np.testing.assert_allclose(measures(narrow, *data), measures(wide, *data), rtol=1e-4)
    assert [layer.dtype_policy.name for layer in narrow.layers] == [policy, policy]


def state(model):
    """Everything that a measurement might disturb."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    found = [keras.ops.convert_to_numpy(v) for v in variables]
    flags = [(layer.trainable, layer.dtype_policy.name, getattr(layer, "training", None)) for layer in model.layers]
    generator = None
    if keras.backend.backend() == "torch":
        import torch

        generator = torch.get_rng_state().numpy()
    return found, flags, generator


CALLS = {
    "sharpness": lambda model, *data, **options: analysis.sharpness(model, *data, **options),
    "eigenvalues": lambda model, *data, **options: analysis.hessian_eigenvalues(model, *data, k=2, **options),
    "trace": lambda model, *data, **options: analysis.hessian_trace(model, *data, samples=5, **options),
    "fisher": lambda model, *data, **options: analysis.spectral_density(
        model, *data, probes=2, steps=2, matrix="fisher", variables="kernel", **options
    ),
    "average": lambda model, *data, **options: analysis.average_sharpness(
        model, *data, samples=2, normalize_logits=True, **options
    ),
    "landscape": lambda model, *data, **options: analysis.loss_landscape(model, *data, points=3, **options),
    "interpolation": lambda model, *data, **options: analysis.interpolate(
        model, model.get_weights(), [2 * w for w in model.get_weights()], *data, points=3, **options
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_model_stays_as_it_was(trained, data, call, monkeypatch):
    before = state(trained)
    np.random.seed(7)
    CALLS[call](trained, *data)
    compare(state(trained), before)
    assert np.random.random() == np.random.RandomState(7).random()
    calls = []
    mean = Objective._mean

    def interrupted(self, *args):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mean(self, *args)

    monkeypatch.setattr(Objective, "_mean", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](trained, *data)
    compare(state(trained), before)


def compare(found, expected):
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[1] == expected[1]
    np.testing.assert_array_equal(found[2], expected[2])


def test_an_interrupt_leaves_the_precision_of_layers(data):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, dtype="mixed_float16")])

    def failing(y, p):
        raise KeyboardInterrupt

    model.compile(loss=failing)
    with pytest.raises(KeyboardInterrupt):
        analysis.sharpness(model, *data)
    assert model.layers[0].dtype_policy.name == "mixed_float16"


def test_results_are_saved_and_loaded(tmp_path, model, data):
    results = [
        analysis.hessian_eigenvalues(model, *data, k=2),
        analysis.hessian_trace(model, *data, samples=3),
        analysis.loss_landscape(model, *data, points=3, dimensions=2),
    ]
    for result in results:
        result.save(tmp_path / "result.npz")
        loaded = type(result).load(tmp_path / "result.npz")
        assert loaded.to_dict().keys() == result.to_dict().keys()
        for a, b in zip(loaded.to_dict().values(), result.to_dict().values(), strict=True):
            np.testing.assert_array_equal(a, b)
            assert type(a) is type(b)
    with pytest.raises(ValueError, match=r"A Trace has the fields.*Received: .*losses"):
        analysis.Trace.load(tmp_path / "result.npz")
    with pytest.raises(AttributeError):
        results[1].value = 0.0


def test_several_outputs_of_a_model_that_was_never_trained(data):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    model.compile(loss={"a": LOSS, "b": "mse"})
    x, y = data
    targets = {"a": y, "b": np.ones((50, 1), "float32")}
    line = analysis.loss_landscape(model, x, targets, points=3)
    assert not any(v.numpy().any() for v in model.metrics_variables)
    assert line.losses[1] == pytest.approx(model.evaluate(x, targets, verbose=0, return_dict=True)["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: analysis.sharpness(m, x, y, rho=-1.0), "`rho` must be a float >= 0"),
        (lambda m, x, y: analysis.sharpness(m, x, y, ascent_steps=0), "`ascent_steps` must be an integer >= 1"),
        (lambda m, x, y: analysis.sharpness(m, x, y, m=0), "`m` must be an integer >= 1 or None"),
        (lambda m, x, y: analysis.sharpness(m, x, y, batch_size=0), "`batch_size` must be an integer >= 1"),
        (lambda m, x, y: analysis.sharpness(m, x, y[:-1]), "must have the same number of samples. Received: .49, 50"),
        (lambda m, x, y: analysis.sharpness(m, Sequence(x, y), y), "`y` must be None when `x` is a data set"),
        (lambda m, x, y: analysis.sharpness(m, iter([(x, y)])), "an iterator cannot: pass a list of it"),
        (lambda m, x, y: analysis.sharpness(m, []), "There must be at least one sample"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, x, y, k=0), "`k` must be an integer from 1 to"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, x, y, k=1 + m.count_params()), "`k` must be an integer"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, x, y, tolerance=0), "`tolerance` must be a float > 0"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, x, y, max_iterations=0), "`max_iterations` must be an"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, np.inf * x, y), "The curvature must be finite to be measured"),
        (lambda m, x, y: analysis.hessian_trace(m, np.inf * x, y), "The curvature must be finite to be measured"),
        (lambda m, x, y: analysis.spectral_density(m, np.inf * x, y), "The curvature must be finite to be measured"),
        (lambda m, x, y: analysis.hessian_eigenvalues(m, x, y, which="BE"), "`which` must be 'LA', 'SA' or 'LM'"),
        (lambda m, x, y: analysis.hessian_trace(m, x, y, samples=1), "`samples` must be an integer >= 2"),
        (lambda m, x, y: analysis.loss_landscape(m, x, y, span=0), "`span` must be a float > 0"),
        (lambda m, x, y: analysis.loss_landscape(m, x, y, points=1), "`points` must be an integer >= 2"),
        (lambda m, x, y: analysis.loss_landscape(m, x, y, dimensions=3), "`dimensions` must be 1 or 2"),
        (lambda m, x, y: analysis.loss_landscape(m, x, y, directions=[np.ones(3)]), "`directions` must be one or two"),
    ],
)
def test_bad_input(model, data, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, *data)


def test_a_model_that_cannot_be_measured(data):
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="`model` must be compiled, for its loss"):
        analysis.sharpness(model, *data)
    model.compile(loss=LOSS)
    with pytest.raises(ValueError, match="`model` must be built"):
        analysis.sharpness(model, *data)
    model.build((None, 5))
    model.trainable = False
    with pytest.raises(ValueError, match="`model` has no trainable weights to vary"):
        analysis.sharpness(model, *data)


@pytest.mark.only("torch")
def test_a_torch_module_is_refused(data):
    import torch

    wrapper = layers.TorchModuleWrapper(torch.nn.Linear(5, 3), name="foreign")
    model = keras.Sequential([keras.Input((5,)), wrapper])
    model.compile(loss=LOSS)
    with pytest.raises(ValueError, match=r"must consist of Keras layers.*Received: layers \['foreign'\]"):
        analysis.sharpness(model, *data)


def test_progress_is_shown(model, data, capsys):
    analysis.loss_landscape(model, *data, points=3, verbose=1)
    assert "3/3" in capsys.readouterr().out
    analysis.hessian_eigenvalues(model, *data, k=1, verbose=1)
    assert re.search(r"\d+/Unknown.*product *\n$", capsys.readouterr().out)
    analysis.sharpness(model, *data, m=25, verbose=1)
    assert re.search(r"2/Unknown.*group *\n$", capsys.readouterr().out)
    analysis.hessian_trace(model, *data, samples=2)  # no terminal, no bar
    assert capsys.readouterr().out == ""


def test_flatten_and_back():
    vector = np.arange(10.0)
    assert (flatten(unflatten(vector, [(2, 3), (), (3,)])) == vector).all()
