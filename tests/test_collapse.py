"""The word that is said when a network does no more than guess, and that it is not said otherwise."""

import re
import warnings

import family
import keras
import numpy as np
import pytest
from conftest import SAMFunctional, SAMSequential, weights_of

import keras_sam
from keras_sam.models import collapse

MESSAGE = r"After 3 epochs with a radius above 0 .*`rho=keras_sam\.RhoWarmup\(0\.5, warmup=0\.5\)`"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = np.argmax(X[:, :3], axis=-1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FIT = {"batch_size": 16, "epochs": 6, "verbose": 0}


class Blind(keras.layers.Layer):
    """Shows nothing of the samples, as a network does whose radius is too large; but learns to guess."""

    def call(self, x):
        return keras.ops.zeros_like(x)


def network(rho=0.5, blind=True, outputs=3, loss=LOSS, name="sam", activation=None):
    layers = [keras.Input((6,)), *([Blind()] if blind else []), keras.layers.Dense(outputs, activation=activation)]
    model = SAMSequential(layers)
    model.compile(family.make(name, rho=rho, base=keras.optimizers.SGD(0.005)), loss)
    return model


def said(model, *data, **options):
    """What `fit` has to say of the radius."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", collapse.MESSAGE)
        model.fit(*data, **options)
    return [str(each.message) for each in seen if re.match(collapse.MESSAGE, str(each.message))]


KINDS = {
    "labels": (3, LOSS, None, Y),
    "one-hot": (3, "categorical_crossentropy", "softmax", np.eye(3)[Y]),
    "binary": (1, "binary_crossentropy", "sigmoid", (Y == 0).astype("float32")),
    "regression": (1, "mse", None, X[:, 0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_only_guesses_is_told_of_once(kind):
    outputs, loss, activation, y = KINDS[kind]
    model = network(outputs=outputs, loss=loss, activation=activation)
    keras.utils.set_random_seed(0)
    assert not said(model, X, y, **FIT | {"epochs": 2})  # not in so few epochs
    (message,) = said(model, X, y, **FIT)
    assert re.match(MESSAGE, message)


@pytest.mark.parametrize("kind", ["labels", "regression"])
def test_a_network_that_has_learned_is_left_alone(kind):
    outputs, loss, activation, y = KINDS[kind]
    model = network(0.01, False, outputs, loss, activation=activation)
    assert not said(model, X, y, **FIT | {"epochs": 30})
    model.optimizer.learning_rate = 0.0
    assert not said(model, X, y, **FIT)  # where the loss stays


@pytest.mark.parametrize("form", ["pydataset", "tf.data", "loader"])
def test_data_of_any_form_are_looked_at(form):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return batches[index]

    if form == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    elif form == "loader":
        torch = pytest.importorskip("torch")
        data = torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), 16)
    else:
        data = Batches(workers=1)
    (message,) = said(network(), data, epochs=4, shuffle=False, verbose=0)
    assert re.match(MESSAGE, message)


def test_where_it_cannot_be_told_nothing_is_said():
    def batches():
        while True:
            yield X[:16], Y[:16]

    assert not said(
        network(), batches(), steps_per_epoch=6, epochs=4, shuffle=False, verbose=0
    )  # a generator cannot be looked into
    inputs = keras.Input((6,))

    class OwnLoss(SAMFunctional):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(y_pred))  # which has no use for y

    model = OwnLoss(inputs, keras.layers.Dense(3, bias_initializer="ones")(Blind()(inputs)))
    model.compile(family.make("sam", rho=0.01, base=keras.optimizers.SGD(1e-4)))
    assert not said(model, X, Y, **FIT)


@pytest.mark.parametrize("rho", [0.0, keras_sam.RhoWarmup(0.5, begin=18)])
def test_the_base_optimizers_steps_are_not_sams_fault(rho):
    assert not said(network(rho), X, Y, **FIT | {"epochs": 5})


def test_a_step_of_ones_own_has_a_loss_of_its_own():
    class Own(SAMFunctional):
        def train_step(self, *args):
            return super().train_step(*args)

    inputs = keras.Input((6,))
    model = Own(inputs, keras.layers.Dense(3)(Blind()(inputs)))
    model.compile(family.make("sam", rho=0.5, base=keras.optimizers.SGD(0.05)), LOSS)
    assert not said(model, X, Y, **FIT)


def test_nothing_changes_by_looking():
    inputs = keras.Input((6,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5, seed=1)(inputs))
    model = SAMFunctional(inputs, keras.layers.Dense(3)(hidden))
    model.compile(family.make("sam", rho=0.1), LOSS, metrics=["accuracy"])
    model.fit(X, Y, **FIT)

    def state():
        every = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        return [np.array(keras.ops.convert_to_numpy(v)) for v in every]

    before, weights = state(), weights_of(model)
    assert collapse.gain_of_looking(model, (X, Y, None)) > 0.05
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(weights, weights_of(model))


def test_the_gain_is_that_of_the_losses():
    model = network(blind=False)
    model.fit(X, Y, **FIT | {"epochs": 1})
    answers = model.predict(X, verbose=0)
    losses = [float(LOSS(np.roll(Y, shift), answers)) for shift in range(96)]
    others = np.mean([losses[shift] for shift in range(1, 96, 12)])
    # In order of the arrays, all of which are taken.
    assert collapse.gain_of_looking(model, (X, Y, None)) == pytest.approx((others - losses[0]) / losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.4, 2.303, 2.303, 2.302], True),
        ([2.4, 2.303, 2.25, 2.20], False),  # it falls
        ([2.4, 1.0, 0.5, 0.5, 0.5], False),  # it has fallen
        ([1.5, 1.2, 2.3, 2.3, 2.3], True),  # it has risen, with the radius
    ],
)
def test_what_it_is_for_a_loss_to_stay(losses, expected):
    assert collapse.stays(losses) is expected


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.0001], True),  # nothing at all
        ([0.0015, 0.0012, 0.0011, 0.001, 0.001, 0.0009], True),  # little, and less and less
        ([0.0015, 0.0012, 0.0011, 0.001, 0.001], False),  # so far
        ([0.0009, 0.0009, 0.0008, 0.0008, 0.0009, 0.001], False),  # it may begin to learn
        ([0.02, 0.01, 0.008, 0.006, 0.005, 0.004], False),  # it has learned something
    ],
)
def test_what_it_is_to_be_stuck(gains, expected):
    assert collapse.stuck(gains) is expected


def test_a_collapse_after_it_had_learned(monkeypatch):
    model = network()
    callback = collapse.CollapseWarning(X, Y)
    callback.set_model(model)
    model.optimizer.build(model.trainable_variables)
    gains = [0.2, 0.03, 0.02, 0.01, 0.0001]
    monkeypatch.setattr(collapse, "gain_of_looking", lambda model, samples: gains.pop(0))
    losses = [2.3, 2.2, 2.2, 2.2, 2.2, 2.25, 2.26, 2.26, 2.27, 2.28]  # the first look in the fourth epoch, then none
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"loss": loss})
    assert gains == [0.0001]
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", collapse.MESSAGE)
        callback.on_epoch_end(11, {"loss": 2.29})
    (message,) = [str(each.message) for each in seen if re.match(collapse.MESSAGE, str(each.message))]
    assert message.startswith("After 11 epochs with a radius above 0 the loss (2.29) is that of guessing")


def test_samples_are_from_all_over_arrays_and_the_first_of_a_data_set():
    x, y = np.arange(1000.0)[:, None], np.arange(1000)
    found = collapse.samples_of({"a": x}, y)
    assert (found[0]["a"].shape, int(found[1][0]), int(found[1][-1])) == ((256, 1), 0, 999)
    batches = [(x[i : i + 50], y[i : i + 50], np.ones(50)) for i in range(0, 1000, 50)]
    assert [tuple(part.shape) for part in collapse.samples_of(batches)] == [(300, 1), (300,), (300,)]
    batches[2] = (np.zeros((50, 2)), *batches[2][1:])  # longer sequences
    assert [tuple(part.shape) for part in collapse.samples_of(batches)] == [(100, 1), (100,), (100,)]
    assert collapse.samples_of(iter(batches)) is None
