"""A radius that depends on time: what it is, what its steps cost, and how long `fit` says that a training is."""

import family
import keras
import numpy as np
import pytest
from conftest import CountedTraces, SAMSequential, weights_of
from keras import ops

import keras_sam
from keras_sam import RhoWarmup

SGD = keras.optimizers.SGD
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 6)).astype("float32"), RNG.integers(0, 3, 80)
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}  # ten steps an epoch


def network(rho, name="sam", base=None, counter=None, **compile_options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    model = SAMSequential(layers if counter is None else [layers[0], counter, *layers[1:]])
    model.compile(family.make(name, rho=rho, base=base or SGD(0.1, momentum=0.9)), LOSS, **compile_options)
    return model


# The radius.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5] * 8),
        ({"warmup": 4}, [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]),
        ({"begin": 3}, [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ({"warmup": 2, "begin": 3, "end": 7}, [0, 0, 0, 0, 0.25, 0.5, 0.5, 0]),
        ({"end": 2}, [0.5, 0.5, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_radius_by_step(options, expected):
    schedule = RhoWarmup(0.5, **options)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for each in (schedule, again):
        assert [float(each(step)) for step in range(8)] == pytest.approx(expected)


def test_it_leads_up_to_another_schedule():
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 10, end_learning_rate=0.0)
    inner = keras_sam.RhoSchedule(rate, max_learning_rate=0.1, max_rho=0.4)
    schedule = RhoWarmup(inner, warmup=4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for each in (schedule, again):
        found = [float(each(step)) for step in range(10)]
        assert found == pytest.approx([float(inner(s)) * min(1, s / 4) for s in range(10)], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": -1.0}, "`rho` must be a float >= 0"),
        ({"rho": 0.1, "warmup": -1}, r"`warmup` must be a number of steps.*Received: warmup=-1"),
        ({"rho": 0.1, "warmup": 1.5}, r"share of the training, a float from 0\.0 to 1\.0"),
        ({"rho": 0.1, "begin": True}, "`begin` must be"),
        ({"rho": 0.1, "begin": 4, "end": 4}, "`end` must come after begin=4"),
        ({"rho": RhoWarmup(0.1, warmup=0.5)}, "not of shares"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RhoWarmup(**arguments)


def test_shares_without_a_training_are_an_error():
    schedule = RhoWarmup(0.5, warmup=0.5)
    with pytest.raises(ValueError, match=r"does not know how long the training is.*Received: warmup=0\.5"):
        schedule(3)
    model = network(schedule)
    before = weights_of(model)
    with pytest.raises(RuntimeError, match=r"begin_training\(0, steps\)"):
        model.train_on_batch(X, Y)
    np.testing.assert_array_equal(weights_of(model), before)
    with pytest.raises(RuntimeError, match=r"begin_training\(0, steps\)"):
        model.optimizer.is_ascent_step()


# What steps cost.


class Samples(keras.layers.Layer):
    """Counts the samples of all forward passes in training."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def add(self, number):
        self.seen += int(number)

    def call(self, x, training=False):
        if not training:
            return x
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.py_function(self.add, [tf.shape(x)[0]], [])
        elif keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(self.add, x.shape[0])
        else:
            self.add(x.shape[0])
        return x


RADII = {
    "constant": (0.3, 20),
    "zero": (0.0, 10),
    "rising": (RhoWarmup(0.3, warmup=4), 19),  # but the first step
    "late": (RhoWarmup(0.3, begin=7), 13),
    "shares": (RhoWarmup(0.3, begin=0.2, end=0.6), 14),
    "of keras": (keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.0, 0.3]), 15),  # up to step 4
}


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["default", "eager"])
@pytest.mark.parametrize("radius", RADII)
def test_a_step_at_radius_0_costs_one_gradient_pass(radius, mode):
    rho, passes = RADII[radius]
    counter = Samples()
    model = network(rho, counter=counter, **mode)
    model.fit(X, Y, **FIT)
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()
    assert counter.seen == 8 * passes


@pytest.mark.only("tensorflow", "jax")
@pytest.mark.parametrize("name", ["sam", "looksam"])
def test_all_modes_take_the_same_steps(name):
    def after(**mode):
        model = network(RhoWarmup(0.4, warmup=6, begin=3, end=16), name, **mode)
        model.fit(X, Y, epochs=2, **FIT)
        return weights_of(model)

    expected = after(run_eagerly=True)
    for mode in ({}, {"jit_compile": True}, {"steps_per_execution": 3}):
        np.testing.assert_allclose(after(**mode), expected, atol=1e-5)


@pytest.mark.only("jax")
def test_nothing_is_compiled_again():
    counter = CountedTraces()
    model = network(RhoWarmup(0.4, warmup=0.5, begin=0.2), counter=counter)
    model.fit(X, Y, epochs=1, **FIT)
    traced = counter.traces
    for epochs in (2, 3):
        model.fit(X, Y, epochs=epochs, **FIT)
    assert counter.traces == traced
    assert set(model._compiled_steps.steps) == {True, False}


# Shares of the training.


@pytest.mark.parametrize("name", ["sam", "gsam", "msam", "interval"])
def test_shares_are_those_of_the_whole_training(name):
    found, expected = (
        network(RhoWarmup(0.4, **times), name)
        for times in ({"warmup": 0.5, "begin": 0.2, "end": 0.9}, {"warmup": 15, "begin": 6, "end": 27})
    )
    for model in (found, expected):
        model.fit(X, Y, epochs=3, **FIT)
    np.testing.assert_allclose(weights_of(found), weights_of(expected), atol=1e-6)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="older versions of Keras have none")
def test_around_several_optimizers():
    def made(rho):
        several = keras.optimizers.OptimizerMap(SGD(0.1), {".*bias": SGD(0.2)})
        return network(rho, base=keras.optimizers.MultiOptimizer(several))

    found, expected = made(RhoWarmup(0.4, warmup=0.5)), made(RhoWarmup(0.4, warmup=10))
    for model in (found, expected):
        model.fit(X, Y, epochs=2, **FIT)
    np.testing.assert_allclose(weights_of(found), weights_of(expected), atol=1e-6)


def test_another_fit_is_another_training():
    model = network(RhoWarmup(0.4, warmup=0.5))

    def radii(*steps):
        return [float(ops.convert_to_numpy(model.optimizer.radius_at(step))) for step in steps]

    model.fit(X, Y, epochs=2, **FIT)
    assert radii(0, 5, 10, 20) == pytest.approx([0.0, 0.2, 0.4, 0.4])
    model.fit(X, Y, epochs=4, **FIT)  # begins at step 20 and has 40, so that it rises over 20
    assert radii(20, 25, 30, 40, 60) == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.4])
    model.fit(X, Y, epochs=8, initial_epoch=6, **FIT)  # has begun at step 0, so that it rises over 40
    assert radii(0, 20, 40, 80) == pytest.approx([0.0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize("way", ["epochs", "file", "backup"])
def test_a_resumed_training_goes_on_with_its_shares(tmp_path, way):
    def made():
        return network(RhoWarmup(0.4, warmup=0.5), base=SGD(0.1, momentum=0.9))

    whole = made()
    whole.fit(X, Y, epochs=4, **FIT)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    backup = {"callbacks": [keras.callbacks.BackupAndRestore(tmp_path / "backup")]} if way == "backup" else {}
    model = made()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=4, **FIT | {"callbacks": [*backup.get("callbacks", []), Stop()]})
    if way == "file":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras", {"SAMSequential": SAMSequential})
    elif way == "backup":
        model = made()
    model.fit(X, Y, epochs=4, **FIT, **backup, **({} if way == "backup" else {"initial_epoch": 1}))
    np.testing.assert_allclose(weights_of(model), weights_of(whole), atol=1e-6)


def test_callbacks_of_any_form_are_kept():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    for callbacks in (callback, [callback], (callback,)):
        network(RhoWarmup(0.4, warmup=0.5)).fit(X, Y, 8, 1, 0, callbacks)  # in the places that Keras has for them
    model = network(RhoWarmup(0.4, warmup=0.5))
    model.fit(
        X,
        Y,
        callbacks=keras.callbacks.CallbackList([callback], add_history=True, model=model, epochs=1, steps=10),
        **FIT,
    )
    assert seen == [0] * 4


def test_data_of_unknown_length_need_steps_per_epoch():
    def batches():
        for begin in range(0, 80, 8):
            yield X[begin : begin + 8], Y[begin : begin + 8]

    model = network(RhoWarmup(0.4, warmup=0.5))
    with pytest.raises(ValueError, match=r"pass `steps_per_epoch` to `fit`"):
        model.fit(batches(), shuffle=False, verbose=0)
    model.fit(batches(), steps_per_epoch=10, shuffle=False, verbose=0)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 10


def test_accumulated_steps_are_counted_as_the_base_optimizer_does():
    found, expected = (
        network(RhoWarmup(0.4, warmup=warmup), base=SGD(0.1, gradient_accumulation_steps=2)) for warmup in (0.5, 5)
    )
    for model in (found, expected):
        model.fit(X, Y, epochs=2, **FIT)  # ten steps of the base optimizer
    np.testing.assert_allclose(weights_of(found), weights_of(expected), atol=1e-6)


def test_a_loop_of_ones_own_says_how_long_the_training_is(gradients_of):
    found, expected = network(RhoWarmup(0.4, warmup=0.5)), network(RhoWarmup(0.4, warmup=5))
    found.optimizer.begin_training(0, 10)
    for model in (found, expected):
        for begin in range(0, 80, 8):
            x, y = X[begin : begin + 8], Y[begin : begin + 8]
            variables = model.trainable_variables
            model.optimizer.build(variables)
            if model.optimizer.is_ascent_step():
                model.optimizer.first_step(gradients_of(model, x, y), variables)
                model.optimizer.second_step(gradients_of(model, x, y), variables)
            else:
                model.optimizer.single_step(gradients_of(model, x, y), variables)
    np.testing.assert_allclose(weights_of(found), weights_of(expected), atol=1e-6)


@pytest.mark.only("jax")
@pytest.mark.parametrize("rho", [RhoWarmup(0.4, warmup=5, begin=2), RhoWarmup(0.4, warmup=0.5, begin=0.2)])
def test_a_stateless_loop(rho):
    import jax

    expected, model = network(RhoWarmup(0.4, warmup=5, begin=2)), network(rho)
    expected.fit(X, Y, **FIT)
    optimizer, variables = model.optimizer, model.trainable_variables
    optimizer.build(variables)
    if optimizer.has_shares:
        optimizer.begin_training(0, 10)

    def loss(weights, x, y):
        answers, _ = model.stateless_call(weights, [], x, training=True)
        return LOSS(y, answers)

    def climb(state, weights, x, y):
        perturbed, state = optimizer.stateless_first_step(state, jax.grad(loss)(weights, x, y), weights)
        weights, state = optimizer.stateless_second_step(state, jax.grad(loss)(perturbed, x, y), perturbed)
        return state, weights

    def single(state, weights, x, y):
        weights, state = optimizer.stateless_single_step(state, jax.grad(loss)(weights, x, y), weights)
        return state, weights

    @jax.jit
    def step(*state_and_batch):
        climbs = optimizer.stateless_is_ascent_step(state_and_batch[0])
        return jax.lax.cond(climbs, climb, single, *state_and_batch)

    state, weights = [v.value for v in optimizer.variables], [v.value for v in variables]
    for begin in range(0, 80, 8):
        state, weights = step(state, weights, X[begin : begin + 8], Y[begin : begin + 8])
    np.testing.assert_allclose(np.concatenate([np.ravel(w) for w in weights]), weights_of(expected), atol=1e-5)
