"""Products with Hessian, Gauss-Newton and Fisher matrices against dense ones, in float64 and in plain NumPy."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from reference import cross_entropy, flatten, gradient, unflatten

from keras_sam.analysis.objective import MATRICES, Objective
from keras_sam.models.batches import Batches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPES = [(5, 4), (4,), (4,), (4,), (4, 3), (3,)]  # of a kernel, a bias, batch norm's two, a kernel, a bias
STATISTICS = np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.5, 1.0, 2.0, 0.7])  # of batch norm: means, variances
DECAY = 0.02


def logits(w, x):
    kernel1, bias1, gamma, beta, kernel2, bias2 = unflatten(w, SHAPES)
    hidden = (np.tanh(x @ kernel1 + bias1) - STATISTICS[0]) / np.sqrt(STATISTICS[1] + 1e-3) * gamma + beta
    return hidden @ kernel2 + bias2


def mean_loss(w, batch):
    x, y, weights = batch
    decay = DECAY * np.sum(unflatten(w, SHAPES)[0] ** 2)
    return np.mean(weights * cross_entropy(logits(w, x), y)) + decay


def jacobian(function, w):
    """By complex steps; the last axis is that of the weights."""
    return np.stack([function(w + 1e-30j * d).imag / 1e-30 for d in np.eye(len(w))], axis=-1)


def dense(matrix, w, batch):
    """The whole matrix, by complex steps and the formulas of cross-entropy."""
    x, y, weights = batch
    if matrix == "hessian":
        steps = 1e-5 * np.eye(len(w))
        rows = [(gradient(mean_loss, w + d, batch) - gradient(mean_loss, w - d, batch)) / 2e-5 for d in steps]
        return np.array(rows)
    if matrix == "gauss_newton":
        j = jacobian(lambda v: logits(v, x), w)  # samples, classes, weights
        p = np.exp(logits(w, x))
        p /= p.sum(-1, keepdims=True)
        middle = weights[:, None, None] * (np.eye(3) * p[:, :, None] - p[:, :, None] * p[:, None, :])
        return np.einsum("nka,nkl,nlb->ab", j, middle, j) / len(x)
    each = jacobian(lambda v: weights * cross_entropy(logits(v, x), y), w)
    return each.T @ each / len(x)


@contextlib.contextmanager
def precision(dtype):
    """All of Keras in `dtype`; JAX has float64 only where it is asked for."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        if keras.backend.backend() == "jax":
            jax.config.update("jax_enable_x64", False)


def network(w):
    """The network of `logits`, which drops nothing where it is measured."""
    l2 = keras.regularizers.L2(DECAY)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", kernel_regularizer=l2),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(3),
        ]
    )
    parts = unflatten(w, SHAPES)
    model.set_weights([*parts[:4], *STATISTICS, *parts[4:]])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    w = rng.normal(size=sum(int(np.prod(s)) for s in SHAPES)) / 2
    return w, (rng.normal(size=(50, 5)), rng.integers(0, 3, 50), rng.uniform(0.5, 2, 50))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_equal_those_of_dense_matrices(problem, dtype):
    w, (x, y, weights) = problem
    with precision(dtype):
        model = network(w)
        data = [(x[i : i + 25].astype(dtype), y[i : i + 25], weights[i : i + 25].astype(dtype)) for i in (0, 25)]
        vectors = np.random.default_rng(1).normal(size=(len(w), 9))  # in blocks of five
        for matrix in MATRICES:
            expected = dense(matrix, w, problem[1]) @ vectors
            found = Objective(model, Batches(data), matrix=matrix).products(vectors)
            scale = np.abs(expected).max()
            tolerance = 1e-5 if dtype == "float32" else 2e-7  # of batch norm, on PyTorch
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=matrix)
            assert found.dtype == "float64"


@pytest.mark.parametrize("matrix", MATRICES)
def test_batches_of_any_size_and_a_part_of_the_weights(problem, matrix):
    w, (x, y, _) = problem
    model = network(w)
    chosen = np.zeros(len(w), bool)
    chosen[20:32] = True  # the first bias, gamma and beta
    expected = dense(matrix, w, (x, y, np.ones(50)))[chosen][:, chosen]
    vector = np.random.default_rng(1).normal(size=12)
    for size in (7, 50):
        objective = Objective(model, Batches(x.astype("float32"), y, size), ["dense/bias", "gamma$", "beta$"], matrix)
        for _ in range(3):  # graphs are kept, on PyTorch
            found = objective.product(vector)
            np.testing.assert_allclose(found, expected @ vector, rtol=0, atol=1e-5 * np.abs(expected @ vector).max())
    objective.batches = Batches(x[:25].astype("float32"), y[:25], 25)  # of other data there is another
    expected = dense(matrix, w, (x[:25], y[:25], np.ones(25)))[chosen][:, chosen] @ vector
    np.testing.assert_allclose(objective.product(vector), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.only("torch")
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("size", "room", "builds"), [(7, 8, 16), (7, 3, 21), (7, 0, 24), (50, 0, 2)])
def test_graphs_are_kept_as_far_as_they_find_room(problem, matrix, size, room, builds, monkeypatch):
    from keras_sam.backend.derivatives import torch as derivatives

    w, (x, y, _) = problem
    objective = Objective(network(w), Batches(x.astype("float32"), y, size), matrix=matrix)
    monkeypatch.setattr(derivatives, "KEPT", 1000 * room + 500)
    sized = []
    monkeypatch.setattr(derivatives, "_bytes", lambda graph: sized.append(1) or 1000)
    graphs = derivatives._Graphs.__call__
    built = []

    def counted(self, weights, batch):
        build = self.build
        self.build = lambda *args: built.append(1) or build(*args)
        try:
            return graphs(self, weights, batch)
        finally:
            self.build = build

    monkeypatch.setattr(derivatives._Graphs, "__call__", counted)
    vector = np.random.default_rng(1).normal(size=len(w))
    expected = dense(matrix, w, (x, y, np.ones(50))) @ vector
    for _ in range(3):
        np.testing.assert_allclose(objective.product(vector), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(built) == builds
    assert len(sized) == -(-50 // size)  # each once, as it takes a tenth of a product


@pytest.mark.only("torch")
def test_no_graph_is_taken_for_that_of_other_weights_or_data():
    import torch

    from keras_sam.backend import derivatives

    products = derivatives.differentiate(lambda weights, batch: (batch[0] * weights[0] ** 3).sum())[2]
    for value in (1.0, 2.0):
        weights = [torch.tensor([value])]
        for count in range(9):  # each in the memory of the one before
            batch = (torch.tensor([float(count)]), None)
            for _ in range(3):
                assert products(weights, batch, [torch.ones(1, 1)])[0].item() == 6 * count * value
            del batch
        batch = (torch.tensor([1.0]), None)
        products(weights, batch, [torch.ones(1, 1)])
        assert products(weights, batch, [torch.ones(1, 1)])[0].item() == 6 * value
        other = [torch.tensor([5.0])]
        assert products(other, batch, [torch.ones(1, 1)])[0].item() == 30


@pytest.mark.only("torch")
def test_what_a_graph_holds_is_counted():
    import torch

    from keras_sam.backend.derivatives import torch as derivatives

    w = torch.ones(1000, requires_grad=True)
    raised = torch.exp(w)  # which holds its result, of 4,000 bytes
    assert derivatives._bytes([raised, w.detach()]) == 4000
    assert derivatives._bytes([raised * raised]) == 4000  # of the same
    assert derivatives._bytes([torch.sin(raised) * torch.ones(1000)]) == 4000 + 4000  # what sine sees, and the ones


def two_inputs_two_outputs():
    a, b = keras.Input((5,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dense(3, activation="tanh")(layers.Concatenate()([a, b]))
    outputs = {"label": layers.Dense(3, name="label")(hidden), "number": layers.Dense(1, name="number")(hidden)}
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile(loss={"label": LOSS, "number": "mse"}, loss_weights={"label": 1.0, "number": 0.3})
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(12, 5)).astype("float32"), "b": rng.normal(size=(12, 2)).astype("float32")}
    return model, x, {"label": rng.integers(0, 3, 12), "number": rng.normal(size=(12, 1)).astype("float32")}


def attention():
    inputs = keras.Input((4,))
    sequence = layers.Embedding(6, 2)(inputs)
    pooled = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(1, 2)(sequence, sequence))
    model = keras.Model(inputs, layers.Dense(3)(pooled))
    model.compile(loss=LOSS)
    rng = np.random.default_rng(0)
    return model, rng.integers(0, 6, (12, 4)), rng.integers(0, 3, 12)


def embedding():
    model = keras.Sequential([keras.Input((4,)), layers.Embedding(6, 3), layers.Flatten(), layers.Dense(3)])
    model.compile(loss=LOSS)
    rng = np.random.default_rng(0)
    return model, rng.integers(0, 6, (12, 4)), rng.integers(0, 3, 12)


def convolution():
    norm = layers.BatchNormalization()
    hidden = [
        layers.Conv2D(2, 3, activation="tanh", dtype="mixed_float16"),
        norm,
        layers.MaxPooling2D(),
        layers.Flatten(),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *hidden, layers.Dense(3, dtype="float32")])
    model.compile(loss=LOSS)
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(12, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 12)


@pytest.mark.parametrize("build", [two_inputs_two_outputs, attention, embedding])
def test_products_equal_differences_of_gradients(build):
    model, x, y = build()
    objective = Objective(model, Batches(x, y, 5))
    v, step = np.random.default_rng(1).normal(size=len(objective.start)), 3e-3
    difference = (objective.gradient(objective.start + step * v) - objective.gradient(objective.start - step * v)) / 2
    np.testing.assert_allclose(objective.product(v), difference / step, atol=2e-3)


@pytest.mark.parametrize("build", [two_inputs_two_outputs, attention, convolution])
def test_fisher_is_the_mean_outer_product_of_the_samples_gradients(build):
    model, x, y = build()
    objective = Objective(model, Batches(x, y, 6), matrix="fisher")
    each = np.array([objective.gradient(objective.start, [sample]) for sample in Batches(x, y, 1)])
    vectors = np.random.default_rng(1).normal(size=(len(objective.start), 2))
    expected = each.T @ (each @ vectors) / len(each)
    np.testing.assert_allclose(objective.products(vectors), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_gauss_newton_is_the_hessian_where_outputs_are_linear():
    model, x, y = two_inputs_two_outputs()
    objectives = [Objective(model, Batches(x, y, 6), "(label|number)/", matrix) for matrix in MATRICES[:2]]
    vectors = np.random.default_rng(1).normal(size=(len(objectives[0].start), 2))
    hessian, gauss_newton = (objective.products(vectors) for objective in objectives)
    np.testing.assert_allclose(gauss_newton, hessian, rtol=0, atol=1e-5 * np.abs(hessian).max())


def test_softmax_outputs_are_probabilities(problem):
    """Of these the loss has another curvature than of logits."""
    _, (x, y, _) = problem
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    objective = Objective(model, Batches(x.astype("float32"), y), matrix="gauss_newton")
    kernel, bias = (w.astype("float64") for w in model.get_weights())

    def chosen(w):
        p = np.exp(x @ w[:15].reshape(5, 3) + w[15:])
        return p[np.arange(50), y] / p.sum(-1)

    w = flatten([kernel, bias])
    j = jacobian(chosen, w) / chosen(w)[:, None]  # the loss is -log p, whose second derivative is 1 / p²
    vector = np.random.default_rng(1).normal(size=18)
    np.testing.assert_allclose(objective.product(vector), j.T @ (j @ vector) / 50, atol=1e-5)


def test_a_loss_that_weighs_no_samples_has_no_fisher_matrix(problem):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y_pred - 1.0) ** 2)

    _, (x, y, _) = problem
    for model, loss in ((Own(), "mse"), (network(problem[0]), keras.losses.SparseCategoricalCrossentropy(True))):
        loss = keras.losses.get(loss)
        if not isinstance(model, Own):
            loss.reduction = "mean_with_sample_weight"
        model.compile(loss=loss)
        model(x.astype("float32"))
        with pytest.raises(
            ValueError, match=r"`matrix='fisher'` needs a loss that is a sum of the samples' own.*Received"
        ):
            Objective(model, Batches(x.astype("float32"), y), matrix="fisher")


def test_normalized_logits(problem):
    """The loss does not change with the size of the logits, and is that of logits of norm 1."""
    w, (x, y, _) = problem
    model, data = network(w), (x.astype("float32"), y)
    objective = Objective(model, Batches(*data), normalize_logits=True)
    z = logits(w, x)
    z -= z.mean(-1, keepdims=True)
    decay = DECAY * np.sum(unflatten(w, SHAPES)[0] ** 2)
    expected = cross_entropy(z / np.linalg.norm(z, axis=-1, keepdims=True), y).mean() + decay
    assert objective.loss(objective.start) == pytest.approx(expected, rel=1e-5)
    scaled = np.concatenate([w[:32], 10 * w[32:]])
    assert objective.loss(scaled) == pytest.approx(expected, rel=1e-5)
    model.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`normalize_logits` needs a model that ends in logits.*from_logits=True"):
        Objective(model, Batches(*data), normalize_logits=True)
    zero = keras.Sequential([keras.Input((5,)), layers.Dense(3, kernel_initializer="zeros")])
    zero.compile(loss=LOSS)
    objective = Objective(zero, Batches(*data), normalize_logits=True)
    assert np.isfinite(objective.gradient(objective.start)).all()


def test_losses_that_layers_add_are_in_it(problem):
    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * keras.ops.mean(x**2))
            return x

    x, y = problem[1][0].astype("float32"), problem[1][1]
    hidden = layers.Dense(6, activation="tanh", activity_regularizer=keras.regularizers.L2(0.1))
    model = keras.Sequential([keras.Input((5,)), hidden, Adds(), layers.Dense(3)])
    model.compile(loss=LOSS)
    objective = Objective(model, Batches(x, y, batch_size=50))
    expected = model.evaluate(x, y, batch_size=50, verbose=0)
    assert objective.loss(objective.start) == pytest.approx(expected, rel=1e-6)
    assert objective.loss(objective.start) == pytest.approx(expected, rel=1e-6)  # nothing has been left from before
