"""Training steps of users' own: each is the plain step at rho = 0, and a SAM loop written by hand above."""

import keras
import numpy as np
import own_steps
import pytest
from conftest import COMPILED_ELSEWHERE, MODES, NOTHING
from keras import ops

import keras_sam

SGD = keras.optimizers.SGD
RHO, RATE = 0.2, 0.05
ON_TORCH = keras.backend.backend() == "torch"
ALGORITHMS = {
    "sam": keras_sam.SAMOptimizer,
    "gsam": keras_sam.GSAMOptimizer,
    "msam": keras_sam.MSAMOptimizer,
}
STEPS = {
    "mean_teacher": own_steps.MeanTeacher,
    "diffusion": own_steps.Diffusion,
    "gan": lambda: own_steps.GAN(SGD(RATE)),
    "accumulation": own_steps.Accumulation,
    "clipping": own_steps.Clipping,
}


def make(name, optimizer=None, critic_optimizer=None, **options):
    """The model of that name, with SAM in front if it is to be compiled with a SAM optimizer."""
    keras.utils.set_random_seed(2)
    cls = {"gan": own_steps.GAN}.get(name) or STEPS[name]
    critic = [critic_optimizer or SGD(RATE)] if name == "gan" else []
    sam = any(isinstance(each, keras_sam.SAMOptimizer) for each in (optimizer, *critic))
    model = (own_steps.sam_of(cls) if sam else cls)(*critic)
    model.compile(optimizer or SGD(RATE), **options)
    return model


def values(model):
    return {v.path: ops.convert_to_numpy(v) for v in (*model.variables, *own_optimizer_variables(model))}


def own_optimizer_variables(model):
    return getattr(model.optimizer, "base_optimizer", model.optimizer).variables


def assert_same(found, expected, tolerance):
    assert len(found) == len(expected)
    for (path, a), b in zip(found.items(), expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=path)


def fit(model, steps=6):
    return model.fit(*own_steps.data(), batch_size=48 // steps, shuffle=False, verbose=0).history


@pytest.mark.parametrize("mode", ["default", "eager", COMPILED_ELSEWHERE])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", STEPS)
def test_zero_radius_is_the_plain_step(name, algorithm, mode):
    plain = make(name, **MODES[mode])
    model = make(name, ALGORITHMS[algorithm](SGD(RATE), rho=NOTHING), **MODES[mode])
    expected, found = fit(plain), fit(model)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6)
    assert_same(values(model), values(plain), 1e-6)


@pytest.mark.only("torch")
def test_zero_radius_is_the_plain_step_compiled():
    plain, model = (
        make("gan", jit_compile=True),
        make("gan", keras_sam.SAMOptimizer(SGD(RATE), rho=NOTHING), jit_compile=True),
    )
    fit(plain), fit(model)
    assert_same(values(model), values(plain), 1e-5)


def arrays(variables):
    return [ops.convert_to_numpy(v).copy() for v in variables]


def assign(variables, arrays):
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def perturbed(weights, gradients):
    length = np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in gradients))
    return [w + RHO * g / length for w, g in zip(weights, gradients, strict=True)]


def sam_gradients(model, variables, gradients_at):
    """Two gradients by hand: the one at the perturbed weights, all else as the first computation has left it."""
    others = [v for v in model.variables if not any(v is w for w in variables)]
    start, weights = arrays(others), arrays(variables)
    first = arrays(gradients_at())
    after = arrays(others)
    assign(others, start)
    assign(variables, perturbed(weights, first))
    second = arrays(gradients_at())
    assign(others, after)
    assign(variables, weights)
    return second


def descend(variables, gradients):
    assign(variables, [w - RATE * g for w, g in zip(arrays(variables), gradients, strict=True)])


def by_hand(model, x, y, critic_too=False):
    """A step of SAM with plain SGD, written out."""
    variables = model.own_variables()
    if isinstance(model, own_steps.GAN):
        critic = model.critic.trainable_variables

        def critic_gradients():
            return model.differentiate(lambda: model.critic_loss(x), critic)[1]

        found = sam_gradients(model, critic, critic_gradients) if critic_too else arrays(critic_gradients())
        descend(critic, found)
        model.clip()
    if isinstance(model, own_steps.Accumulation):

        def accumulated():
            _, gradients = model.differentiate(lambda: model.loss_of(x, y), variables)
            assign(model.sums, [total + g for total, g in zip(arrays(model.sums), arrays(gradients), strict=True)])
            return [total.value / 2 for total in model.sums]

        model.batches.assign(model.batches + 1)
        if int(model.batches.numpy()) % 2:
            accumulated()
            return
        descend(variables, sam_gradients(model, variables, accumulated))
        assign(model.sums, [0 * total for total in arrays(model.sums)])
        return

    def gradients_at():
        loss, gradients = model.differentiate(lambda: model.loss_of(x, y), variables)
        losses.append(loss)
        return model.shape_gradients(gradients)

    losses = []
    descend(variables, sam_gradients(model, variables, gradients_at))
    model.after(losses[0])


# XLA draws other random numbers than TensorFlow's own kernels, with which the loop by hand runs.
DRAWS_NOTHING = ["accumulation", "clipping"]
BY_HAND = [
    *((name, mode) for name in [*STEPS, "gan_with_two_sam"] for mode in ("default", "eager")),
    *((name, "compiled") for name in STEPS if keras.backend.backend() == "jax" or name in DRAWS_NOTHING),
]


@pytest.mark.parametrize(("name", "mode"), [case for case in BY_HAND if case[1] != "compiled" or not ON_TORCH])
def test_six_steps_equal_a_loop_written_by_hand(name, mode):
    name, critic_too = ("gan", True) if name == "gan_with_two_sam" else (name, False)
    critic = keras_sam.SAMOptimizer(SGD(RATE), rho=RHO) if critic_too else None
    model = make(name, keras_sam.SAMOptimizer(SGD(RATE), rho=RHO), critic, **MODES[mode])
    plain = make(name)
    x, y = own_steps.data()
    for begin in range(0, 48, 8):
        batch = x[begin : begin + 8], y[begin : begin + 8]
        model.fit(*batch, batch_size=8, shuffle=False, verbose=0)
        by_hand(plain, *map(ops.convert_to_tensor, batch), critic_too=critic_too)
        found, expected = (
            {v.path: ops.convert_to_numpy(v) for v in each.layers_variables()} for each in (model, plain)
        )
        assert_same(found, expected, 2e-5)
