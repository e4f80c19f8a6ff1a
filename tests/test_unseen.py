"""What SAM adds to a model and an optimizer is not in the way of what a class, a callback or Keras does with them."""

import keras
import numpy as np
import own_steps
import pytest
from conftest import NOTHING, SAMSequential, weights_of
from keras import ops

import keras_sam

BACKEND = keras.backend.backend()
SGD, Dense = keras.optimizers.SGD, keras.layers.Dense


def sam(rho=0.1, base=None, **options):
    return keras_sam.SAMOptimizer(base or SGD(0.1, momentum=0.9), rho=rho, **options)


def classes():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 5)).astype("float32"), rng.integers(0, 3, 32)


# The sharpness.


class Walks(own_steps.OwnStep):
    """Goes through its metrics itself, and on JAX cuts the values of their variables by position."""

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([keras.Input((5,)), Dense(3, activation="softmax")])
        self.seen = []

    def call(self, x):
        return self.network(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):  # without `training`
        return super().compute_loss(x, y, y_pred, sample_weight)

    def train_step(self, *args):
        self.seen = [metric.name for metric in self.metrics]
        if BACKEND == "jax":
            assert len(args[0][3]) == sum(len(m.variables) for m in self.metrics) == len(self.metrics_variables)
        return super().train_step(*args)

    def step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        loss, gradients = self.differentiate(lambda: self.compute_loss(x, y, self(x)), self.trainable_variables)
        self.update(self.optimizer, gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, self(x))
        return self.get_metrics_result()


class SAMWalks(keras_sam.SAMModel, Walks):
    pass


class Names(Walks):
    """Has a `metrics` of its own."""

    def __init__(self):
        super().__init__()
        self.own = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.own]


class SAMNames(keras_sam.SAMModel, Names):
    pass


@pytest.mark.parametrize(("plain", "with_sam"), [(Walks, SAMWalks), (Names, SAMNames)])
def test_a_step_sees_the_metrics_that_it_would_see_without(plain, with_sam, quick_mode):
    histories = {}
    for cls, optimizer in ((plain, SGD(0.1)), (with_sam, sam(NOTHING, SGD(0.1))), (with_sam, sam(0.5, SGD(0.1)))):
        keras.utils.set_random_seed(0)
        model = cls()
        metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=metrics, **quick_mode)
        history = model.fit(*classes(), batch_size=8, epochs=2, shuffle=False, verbose=0).history
        assert model.seen == ([m.name for m in model.metrics] if cls in (Walks, SAMWalks) else ["loss"])
        assert "sharpness" not in model.evaluate(*classes(), verbose=0, return_dict=True)
        assert "sharpness" not in [m.name for m in model.metrics]
        histories[getattr(optimizer, "rho", None)] = history
    rise = histories[NOTHING].pop("sharpness")
    assert rise == pytest.approx([0.0, 0.0], abs=1e-6)
    assert histories[NOTHING].keys() == histories[None].keys()
    for name, values in histories[None].items():
        assert histories[NOTHING][name] == pytest.approx(values, abs=1e-5)
    assert histories[0.5]["sharpness"][0] > 0.05


def test_the_sharpness_of_an_own_step_is_that_of_keras_step():
    found = []
    for cls in (SAMWalks, SAMSequential):
        keras.utils.set_random_seed(0)
        model = cls() if cls is SAMWalks else cls([keras.Input((5,)), Dense(3, activation="softmax")])
        model.compile(sam(0.5), "sparse_categorical_crossentropy")
        found.append(model.fit(*classes(), batch_size=8, epochs=2, shuffle=False, verbose=0).history["sharpness"])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_methods_keep_the_signatures_of_the_class():
    class Task(keras.Sequential):
        def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
            return super().train_on_batch(x=x, y=y, sample_weight=sample_weight, **kwargs)

        def compute_metrics(self, x, y, y_pred=None, sample_weight=None, stage="training"):
            return super().compute_metrics(x, y, self(x) if y_pred is None else y_pred, sample_weight)

        def make_train_function(self):
            return super().make_train_function()

    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    found = []
    for optimizer in ("sgd", keras_sam.SAMOptimizer("sgd", rho=NOTHING)):
        keras.utils.set_random_seed(0)
        model = Task([keras.Input((2,)), Dense(1)])
        if optimizer != "sgd":
            model = keras_sam.as_sam_model(model)
        model.compile(optimizer, "mse", metrics=["mae"])
        model.compute_metrics(ops.convert_to_tensor(x), ops.convert_to_tensor(y), stage="validation")
        found.append(np.array(keras.Sequential.train_on_batch(model, x, y)))
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize("loss", [None, "mae"])
def test_models_that_cannot_be_built_by_a_call(loss):
    """Without `call`, and with a compiled loss but no targets."""
    import tensorflow as tf

    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([keras.Input((4,)), Dense(4)])

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = ops.mean((data - self.net(data)) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.net.trainable_weights), self.net.trainable_weights)
            return {"objective": loss}

    if loss is not None:
        Autoencoder.call = lambda self, x: self.net(x)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    found = []
    for cls, optimizer in (
        (Autoencoder, SGD(0.1)),
        (type("S", (keras_sam.SAMModel, Autoencoder), {}), sam(NOTHING, SGD(0.1))),
    ):
        keras.utils.set_random_seed(0)
        model = cls()
        model.compile(optimizer, loss=loss)
        model.fit(tf.data.Dataset.from_tensor_slices(x).batch(8), shuffle=False, verbose=0)
        found.append(weights_of(model.net))
    np.testing.assert_allclose(*found, atol=1e-6)


# The state of the optimizer.

BASES = {
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "schedule": lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5), momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.05),
}


@pytest.mark.parametrize("way", ["set_weights", "own_variables"])
@pytest.mark.parametrize("base", BASES)
def test_a_run_goes_on_with_a_state_that_was_moved(base, way):
    x, y = own_steps.data(32)

    def made():
        keras.utils.set_random_seed(0)
        model = SAMSequential([keras.Input((5,)), Dense(4, activation="tanh"), Dense(2)])
        model.compile(keras_sam.GSAMOptimizer(BASES[base](), rho=0.1), "mse")
        return model

    model, other = made(), made()
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    other.optimizer.build(other.trainable_variables)
    other.set_weights(model.get_weights())
    if way == "set_weights":
        other.optimizer.set_weights([ops.convert_to_numpy(v) for v in model.optimizer.variables])
    else:
        store = {}
        model.optimizer.save_own_variables(store)
        assert len(store) == len(model.optimizer.variables)
        other.optimizer.load_own_variables(store)
    assert int(ops.convert_to_numpy(other.optimizer.iterations)) == 12
    for each in (model, other):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(other), weights_of(model), atol=1e-6)


def test_what_set_weights_refuses():
    optimizer = sam()
    with pytest.raises(ValueError, match=r"optimizer.build\(trainable_variables\)"):
        optimizer.set_weights([])
    optimizer.build([keras.Variable([1.0, 2.0])])
    with pytest.raises(ValueError, match=r"one array for each of the 4 variables.*Received: 1 arrays"):
        optimizer.set_weights([np.zeros(2)])


def multi():
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(SGD(0.1), {".*bias": keras.optimizers.Adam(0.01)})
    )


@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=100.0),
    ],
    ids=["scheduler", "plateau"],
)
def test_callbacks_know_a_multi_optimizer(callback):
    rates = []
    for make in (multi, lambda: keras_sam.SAMOptimizer(multi(), rho=NOTHING)):
        model = SAMSequential([keras.Input((4,)), Dense(1)])
        model.compile(make(), "mse")
        model.fit(np.ones((8, 4)), np.ones((8, 1)), epochs=3, verbose=0, callbacks=[callback()])
        rates.append([float(ops.convert_to_numpy(each.learning_rate)) for each in model.optimizer.optimizers])
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][0] < 0.06
    assert not hasattr(sam(), "optimizers")


def test_decoupled_wsam_refuses_a_multi_optimizer():
    with pytest.raises(ValueError, match=r"of which a `MultiOptimizer` has several. Pass `decouple=False`"):
        keras_sam.WSAMOptimizer(multi())
    keras_sam.WSAMOptimizer(multi(), decouple=False)


# Batches, and what stands in them.


class Graph(keras.Model):
    """Takes nodes and edges, of which there are not as many."""

    def __init__(self):
        super().__init__()
        self.dense = Dense(3)

    def build(self, shapes):
        self.dense.build((None, 5))

    def call(self, inputs):
        x, edges = inputs
        return self.dense(ops.segment_sum(ops.take(x, edges[0], axis=0), edges[1], num_segments=12))


@pytest.mark.parametrize("options", [{"ascent_fraction": 0.5}, {"num_batch_splits": 2}], ids=lambda o: next(iter(o)))
def test_arrays_that_do_not_agree_on_the_samples_are_not_cut(options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)).astype("float32"), rng.integers(0, 3, 12)
    edges = rng.integers(0, 12, (2, 30)).astype("int32")

    def batches():
        while True:
            yield (x, edges), y

    model = type("SAMGraph", (keras_sam.SAMModel, Graph), {})()
    model.compile(sam(**options), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    with pytest.raises(Exception, match=r"the arrays do not agree on how many there are"):
        model.fit(batches(), steps_per_epoch=1, shuffle=False, verbose=0)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize(("samples", "parts"), [(2, 3), (2, 5), (3, 5), (1, 4)])
def test_more_parts_than_samples_in_a_graph(samples, parts):
    found = []
    for eager in (True, False):
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization()
        model = SAMSequential([keras.Input((5,)), norm, Dense(2)])
        model.compile(sam(num_batch_splits=parts), "mse", run_eagerly=eager, jit_compile=False)
        model.fit(*own_steps.data(8 + samples), batch_size=8, shuffle=False, verbose=0)
        found.append(weights_of(model))
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_parts_of_a_batch_in_half_precision_with_accumulation(policy):
    keras.utils.set_random_seed(0)
    model = SAMSequential([keras.Input((3,)), Dense(4, dtype=policy), Dense(1, dtype=policy)])
    base = SGD(0.01, gradient_accumulation_steps=2)
    model.compile(sam(base=base, num_batch_splits=2), loss="mse", run_eagerly=True)
    before = weights_of(model)
    model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.abs(weights_of(model) - before).max() > 1e-4
    assert {v.dtype for v in model.trainable_variables} == {policy}


def test_scales_of_float8_move_with_parts_of_a_batch():
    moved = []
    for parts in (None, 2):
        keras.utils.set_random_seed(0)
        model = SAMSequential([keras.Input((4,)), Dense(4), Dense(1)])
        model.layers[0].quantize("float8")
        model.compile(sam(num_batch_splits=parts), loss="mse")
        scales = [v for v in model.layers[0].variables if "scale" in v.path or "amax" in v.path]
        before = [ops.convert_to_numpy(v).copy() for v in scales]
        model.fit(np.ones((16, 4), "float32"), np.ones((16, 1)), batch_size=8, verbose=0)
        moved.append([bool((ops.convert_to_numpy(v) != old).any()) for v, old in zip(scales, before, strict=True)])
    assert moved[0] == moved[1]
    assert any(moved[1])


DOUBLE = {
    "sam": lambda: sam(),
    "adaptive": lambda: sam(adaptive=True),
    "splits": lambda: sam(num_batch_splits=2),
    "asam": lambda: keras_sam.ASAMOptimizer(SGD(0.1)),
    "gsam": lambda: keras_sam.GSAMOptimizer(SGD(0.1)),
    "wsam": lambda: keras_sam.WSAMOptimizer(SGD(0.1)),
    "looksam": lambda: keras_sam.LookSAMOptimizer(SGD(0.1), interval=2),
    "friendly": lambda: keras_sam.FriendlySAMOptimizer(SGD(0.1)),
    "vasso": lambda: keras_sam.VaSSOOptimizer(SGD(0.1)),
    "bayesian": lambda: keras_sam.BayesianSAMOptimizer(SGD(0.1), num_data=8),
    "msam": lambda: keras_sam.MSAMOptimizer(SGD(0.1)),
}


@pytest.mark.only("tensorflow", "torch")  # JAX has float64 only on request
@pytest.mark.parametrize("name", DOUBLE)
def test_one_float64_layer_among_others(name):
    for eager in (True, False):
        model = SAMSequential([keras.Input((3,)), Dense(2, dtype="float64"), Dense(1)])
        model.compile(DOUBLE[name](), loss="mse", run_eagerly=eager, jit_compile=False)
        before = weights_of(model)
        model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
        assert np.isfinite(weights_of(model)).all()
        assert np.abs(weights_of(model) - before).max() > 1e-3
        assert [v.dtype for v in model.trainable_variables] == ["float64", "float64", "float32", "float32"]


@pytest.mark.only("jax")
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_sparse_gradients_are_as_good_as_dense(rho):
    import jax.experimental.sparse as sparse

    g = sparse.BCOO((np.full((2, 3), 0.5, "float32"), np.array([[1], [3]])), shape=(4, 3))
    found = []
    for gradient in (g, g.todense()):
        v = keras.Variable(np.ones((4, 3), "float32"))
        optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.1), rho=rho)
        optimizer.build([v])
        weights, state = [v.value], [s.value for s in optimizer.variables]
        weights, state = optimizer.stateless_first_step(state, [gradient], weights)
        weights, state = optimizer.stateless_second_step(state, [gradient], weights)
        found.append(np.asarray(weights[0]))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_pattern_with_the_models_name_is_known_again(tmp_path):
    model = SAMSequential([keras.Input((4,)), Dense(3, name="first"), Dense(1, name="last")], name="net")
    model.compile(sam(perturb=["^net/first"]), loss="mse")
    x, y = np.ones((8, 4)), np.ones((8, 1))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"SAMSequential": SAMSequential})
    for each in (model, loaded):
        assert [slot is not None for slot in each.optimizer.perturbations] == [True, True, False, False]
        each.fit(x, y, verbose=0)
    np.testing.assert_allclose(weights_of(loaded), weights_of(model), atol=1e-6)


def test_the_first_step_draws_nothing_from_pythons_generator():
    import random

    drawn = []
    for optimizer in (SGD(0.1), sam(NOTHING)):
        model = SAMSequential([keras.Input((5,)), Dense(2)])
        model.compile(optimizer, "mse")
        keras.utils.set_random_seed(1)
        model.fit(*own_steps.data(8), shuffle=False, verbose=0)
        drawn.append(random.random())
    assert drawn[0] == drawn[1]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_model_without_trainable_weights_trains_as_without_sam(quick_mode):
    plain = keras.Sequential([keras.Input((2,)), Dense(1, trainable=False)])
    model = keras_sam.as_sam_model(plain)
    x, y = np.ones((8, 2)), np.zeros((8, 1))
    for each, optimizer in ((plain, "sgd"), (model, keras_sam.SAMOptimizer("sgd"))):
        each.compile(optimizer, "mse", **quick_mode)
    found, expected = (each.fit(x, y, verbose=0).history["loss"] for each in (model, plain))
    assert found == pytest.approx(expected)


def test_a_state_tree_has_the_whole_optimizer():
    """Which Keras puts together by the paths of the variables, however these came to be built."""
    inputs = keras.Input((3,))
    model = keras_sam.as_sam_model(keras.Model(inputs, Dense(2)(inputs)))
    model.compile(keras_sam.GSAMOptimizer(keras.optimizers.Adam(0.1)), "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    paths = [variable.path for variable in model.optimizer.variables]
    assert len(set(paths)) == len(paths)
    again = type(model).from_config(model.get_config())
    again.compile_from_config(model.get_compile_config())
    again.set_state_tree(model.get_state_tree())
    pairs = list(zip(model.optimizer.variables, again.optimizer.variables, strict=True))
    for variable, other in pairs:
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (variable, other)))
    assert sum(ops.convert_to_numpy(variable).any() for variable, _ in pairs) == len(pairs)


def test_gradients_may_be_arrays_where_the_base_optimizer_takes_them():
    found = []
    for wrap in (lambda base: base, lambda base: keras_sam.SAMOptimizer(base, rho=NOTHING)):
        variable, gradient = keras.Variable([1.0, 2.0]), np.ones(2, "float32")
        optimizer = wrap(keras.optimizers.Adafactor(0.1))
        if isinstance(optimizer, keras_sam.SAMOptimizer):
            optimizer.first_step([gradient], [variable])
            optimizer.second_step([gradient], [variable])
        else:
            optimizer.apply([gradient], [variable])
        found.append(ops.convert_to_numpy(variable))
    np.testing.assert_array_equal(*found)
