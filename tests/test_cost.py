"""A SAM step costs two gradients of the base step and is compiled once."""

import family
import keras
import numpy as np
import pytest
from conftest import CountedTraces, SAMSequential

import keras_sam


def network(optimizer, *first):
    model = SAMSequential(
        [
            keras.Input((16, 16, 3)),
            *first,
            keras.layers.Conv2D(16, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Conv2D(32, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 16, 16, 3)).astype("float32"), rng.integers(0, 10, 64)


def sgd():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def flops(optimizer, images):
    """Of one compiled step, by XLA's count."""
    import jax

    model = network(optimizer)
    model.train_on_batch(*images)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[v.value for v in group] for group in variables]
    return jax.jit(model.train_step).lower(state, images).compile().cost_analysis()["flops"]


@pytest.mark.only("jax")
@pytest.mark.parametrize(
    ("algorithm", "options", "least", "most"),
    [
        (keras_sam.SAMOptimizer, {}, 1.9, 2.02),
        (keras_sam.SAMOptimizer, {"ascent_fraction": 0.25}, 1.2, 1.27),
        (keras_sam.MSAMOptimizer, {}, 1.0, 1.02),
    ],
    ids=["sam", "ascent_fraction", "msam"],
)
def test_flops_of_a_step(images, algorithm, options, least, most):
    assert least < flops(algorithm(sgd(), **options), images) / flops(sgd(), images) <= most


@pytest.mark.only("jax")
def test_logging_the_sharpness_costs_nothing(images, monkeypatch):
    logged = flops(keras_sam.SAMOptimizer(sgd()), images)
    monkeypatch.setattr(SAMSequential, "log_sharpness", False)
    assert 0 < logged / flops(keras_sam.SAMOptimizer(sgd()), images) - 1 < 1e-3


@pytest.mark.only("jax")
def test_flops_of_looksam_on_average(images, monkeypatch):
    import jax

    steps = []
    for branch in (0, 1):  # the step that climbs, and the one that does not
        monkeypatch.setattr(jax.lax, "cond", lambda _, *branches, n=branch: branches[n](*branches[2:]))
        steps.append(flops(keras_sam.LookSAMOptimizer(sgd(), interval=5), images))
    climbing, other = steps
    assert other < 0.6 * climbing
    assert 1.15 < (climbing + 4 * other) / 5 / flops(sgd(), images) <= 1.25


@pytest.mark.only("jax")
def test_steps_that_differ_are_chosen_outside_the_compiled_code(images, monkeypatch):
    """XLA runs convolutions inside a condition 46 times slower on a CPU (a ResNet-20, batch 128)."""
    import jax

    def refuse(*args):
        raise AssertionError("a condition was compiled")

    monkeypatch.setattr(jax.lax, "cond", refuse)
    counter = CountedTraces()
    model = network(keras_sam.LookSAMOptimizer(sgd(), interval=2), counter)
    model.fit(*images, batch_size=16, verbose=0)
    traced = counter.traces
    model.fit(*images, batch_size=16, epochs=2, verbose=0)
    assert counter.traces == traced
    assert set(model._compiled_steps.steps) == {True, False}


@pytest.mark.only("jax")
def test_compiled_steps_are_not_those_of_an_earlier_optimizer(images):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = network(keras_sam.LookSAMOptimizer(sgd(), interval=2))
    model.train_on_batch(*images)
    model.compile(keras_sam.LookSAMOptimizer(sgd(), interval=2), loss, run_eagerly=True)
    model.train_on_batch(*images)
    assert model._compiled_steps is None
    assert int(model.optimizer.iterations) == 1


def test_the_function_alone_takes_steps_that_differ(images):
    class Plain(keras.Sequential):
        def train_step(self, *args):
            return keras_sam.sam_train_step(self, *args, train_step=super().train_step)

    model = Plain([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras_sam.SAMOptimizer(sgd(), interval=2), loss, run_eagerly=True)
    for _ in range(2):
        model.train_on_batch(*images)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.only("jax", "tensorflow")
@pytest.mark.parametrize("name", family.REGISTRY)
def test_second_epoch_compiles_nothing(images, name):
    counter = CountedTraces()
    model = SAMSequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), counter, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(family.make(name, base="adam"), loss=loss)
    model.fit(*images, batch_size=16, verbose=0)
    traced = counter.traces
    model.fit(*images, batch_size=16, epochs=2, verbose=0)
    assert counter.traces == traced


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["sam", "msam"])
def test_climbing_and_coming_back_is_as_many_calls_for_many_variables_as_for_few(name):
    """A call is what a step of a small network consists of, and a launch on a GPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Calls(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if not any(view in str(function) for view in ("view", "split", "detach")):  # these compute nothing
                self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    found = []
    for count in (3, 30):
        variables = [keras.Variable(np.ones((2, 3), "float32"), name=f"kernel_{i}") for i in range(count)]
        gradients = [keras.ops.ones((2, 3)) for _ in variables] if name == "sam" else None
        optimizer = family.make(name)
        optimizer.build(variables)
        with Calls() as calls:
            optimizer.first_step(gradients, variables)
            optimizer.restore()
        found.append(calls.names)
    few, many = found
    assert few == many
    assert "_foreach_sub_" in many[-1]
