"""Frozen layers, and variables without a gradient in one pass or in both."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import reference
from conftest import SAMSequential, weights_of
from keras import ops

import keras_sam

Dense = keras.layers.Dense
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FIRST = slice(0, 56)  # the first layer's part of the weights of `two_layer`


def sam(rho=0.1):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=rho)


def values(variables):
    return [ops.convert_to_numpy(v).copy() for v in variables]


def assert_identical(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# Frozen layers.


def oracle(w, batches, frozen=None):
    """The weights after momentum SAM on all of `w` but its `frozen` part."""
    moving = np.ones(len(w), bool)
    if frozen is not None:
        moving[frozen] = False

    def loss(part, batch):
        whole = np.array(w, dtype=part.dtype)
        whole[moving] = part
        return reference.two_layer_loss(whole, batch)

    *_, last = reference.train(loss, w[moving], batches, reference.SGD(), rho=0.1)
    result = w.copy()
    result[moving] = last
    return result


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["default", "eager"])
def test_a_frozen_layer_stays_and_the_rest_matches_the_oracle(two_layer, batches, mode):
    model = two_layer("sgd")
    model.layers[0].trainable = False
    model.compile(sam(), loss=LOSS, **mode)
    start, frozen = weights_of(model), model.layers[0].get_weights()
    for x, y in batches:
        model.train_on_batch(x, y)
    assert_identical(model.layers[0].get_weights(), frozen)
    assert [tuple(e.shape) for e in model.optimizer.perturbations] == [(8, 3), (3,)]
    np.testing.assert_allclose(weights_of(model), oracle(start, batches, FIRST), rtol=0, atol=2e-5)


def test_a_frozen_backbone_stays(classification):
    backbone = keras.Sequential([keras.Input((6,)), Dense(5), keras.layers.BatchNormalization(), Dense(4)])
    model = SAMSequential([backbone, keras.layers.ReLU(), Dense(3)])
    backbone.trainable = False
    model.compile(sam(), loss=LOSS)
    frozen, head = backbone.get_weights(), model.layers[-1].get_weights()
    model.fit(*classification, verbose=0)
    assert_identical(backbone.get_weights(), frozen)
    assert all((a != b).any() for a, b in zip(model.layers[-1].get_weights(), head, strict=True))
    assert len(model.optimizer.perturbations) == 2


def test_a_frozen_batch_norm_keeps_its_statistics(noisy_network, classification):
    model = noisy_network("sgd")
    model.fit(*classification, verbose=0)  # statistics and scales that are not the initial ones
    norm = model.layers[1]
    norm.trainable = False
    model.compile(sam(), loss=LOSS)
    frozen, before = norm.get_weights(), weights_of(model)
    model.fit(*classification, verbose=0)
    assert len(frozen) == 4
    assert_identical(norm.get_weights(), frozen)
    assert (weights_of(model) != before).any()


@pytest.mark.parametrize("frozen_first", [True, False])
def test_trainable_changed_between_two_compiles(two_layer, batches, frozen_first):
    model = two_layer("sgd")
    expected = weights_of(model)
    for frozen, part in [(frozen_first, batches[:4]), (not frozen_first, batches[4:])]:
        model.layers[0].trainable = not frozen
        model.compile(sam(), loss=LOSS)
        for x, y in part:
            model.train_on_batch(x, y)
        expected = oracle(expected, part, FIRST if frozen else None)
        assert len(model.optimizer.perturbations) == (2 if frozen else 4)
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)


@pytest.mark.only("jax", "torch")  # TensorFlow goes on with the step that it has compiled
def test_unfreezing_without_compiling_is_refused(two_layer, batches):
    model = two_layer("sgd")
    model.layers[0].trainable = False
    model.compile(sam(), loss=LOSS)
    model.train_on_batch(*batches[0])
    before = weights_of(model)
    model.layers[0].trainable = True
    with pytest.raises(ValueError, match=r"with a new optimizer|recreate a new optimizer"):
        model.train_on_batch(*batches[1])
    np.testing.assert_array_equal(weights_of(model), before)


# A layer that the loss does not depend on: a zero gradient on JAX, none on the others.


class WithUnusedLayer(keras.Model):
    def __init__(self):
        super().__init__()
        self.used, self.unused = Dense(3), Dense(2)

    def call(self, x):
        self.unused(x)
        return self.used(x)


class SAMWithUnusedLayer(keras_sam.SAMModel, WithUnusedLayer):
    pass


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["default", "eager"])
def test_unused_layer_stays_and_keras_warns_as_often_as_without_sam(batches, mode):
    messages = []
    for make, optimizer in [(WithUnusedLayer, sam().base_optimizer), (SAMWithUnusedLayer, sam(rho=0.5))]:
        model = make()
        model(batches[0][0])
        model.compile(optimizer, loss=LOSS, **mode)
        unused, used = values(model.unused.variables), values(model.used.variables)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            for x, y in batches[:3]:
                model.train_on_batch(x, y)
        messages.append([str(w.message).split("[")[0] for w in caught if "Gradients" in str(w.message)])
        assert_identical(values(model.unused.variables), unused)
        assert (values(model.used.variables)[0] != used[0]).all()
    assert messages[0] == messages[1]
    assert bool(messages[0]) == (keras.backend.backend() != "jax")


# Hand-written loops: the loss is half the square of the weights, so that their gradient is the weights themselves.


class Pair:
    """Two variables, larger than any perturbation of them, and NumPy's idea of what they should be."""

    def __init__(self):
        rng = np.random.default_rng(6)
        self.expected = [rng.uniform(1, 2, size).astype("float32") for size in (4, 3)]
        self.velocity = [np.zeros(4), np.zeros(3)]
        self.variables = [keras.Variable(w) for w in self.expected]
        self.optimizer = sam(rho=0.5)

    def gradients(self, present):
        weights = values(self.variables)
        return [ops.convert_to_tensor(w) if there else None for w, there in zip(weights, present, strict=True)]

    def step(self, first, second):
        """One step, in which `first` and `second` say which variables have a gradient in which pass.

        Keras warns once of those without one, in the second.
        """
        self.optimizer.first_step(self.gradients(first), self.variables)
        gradients = self.gradients(second)
        with contextlib.nullcontext() if all(second) else pytest.warns(UserWarning, match="Gradients do not") as caught:
            self.optimizer.second_step(gradients, self.variables)
        assert caught is None or len(caught) == 1
        norm = np.sqrt(sum((w**2).sum() for w, there in zip(self.expected, first, strict=True) if there))
        for i, w in enumerate(self.expected):
            if second[i]:
                perturbed = w * (1 + 0.5 / norm) if first[i] else w
                self.velocity[i] = 0.9 * self.velocity[i] - 0.1 * perturbed
                self.expected[i] = w + self.velocity[i]

    def assert_as_expected(self):
        for found, expected in zip(values(self.variables), self.expected, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture
def pair():
    """Trained for one step, in which all had gradients: no slot is zero."""
    pair = Pair()
    pair.step([True, True], [True, True])
    pair.assert_as_expected()
    return pair


@pytest.mark.parametrize("first", [[True, False], [False, False], [True, True]], ids=["none", "all_none", "present"])
def test_no_gradient_in_the_second_pass_restores_the_variable(pair, first):
    before = values(pair.variables)
    pair.step(first, [True, False])
    assert_identical(values(pair.variables[1:]), before[1:])
    pair.assert_as_expected()
    pair.step([True, True], [True, True])
    pair.assert_as_expected()


@pytest.mark.parametrize("first", [[True, False], [False, False]], ids=["none", "all_none"])
def test_no_gradient_in_the_first_pass_only_is_a_step_without_perturbation(pair, first):
    pair.step(first, [True, True])
    pair.assert_as_expected()


def test_no_gradient_at_all_in_the_second_pass_is_refused_with_weights_restored(pair):
    before = values(pair.variables)
    pair.optimizer.first_step(pair.gradients([True, True]), pair.variables)
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        pair.optimizer.second_step([None, None], pair.variables)
    assert_identical(values(pair.variables), before)
    pair.step([True, True], [True, True])
    pair.assert_as_expected()


@pytest.mark.only("jax")
def test_no_gradient_in_stateless_steps(pair):
    optimizer, before = pair.optimizer, values(pair.variables)
    weights, state = optimizer.stateless_first_step(values(optimizer.variables), [before[0], None], before)
    assert [(a != b).all() for a, b in zip(weights, before, strict=True)] == [True, False]
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        weights, _ = optimizer.stateless_second_step(state, [None, before[1]], weights)
    assert [(a != b).any() for a, b in zip(weights, before, strict=True)] == [False, True]
