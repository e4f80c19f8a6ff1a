"""The contract that every algorithm and every option keeps; their trajectories are in `test_trajectories.py`."""

import inspect
import pickle

import family
import keras
import numpy as np
import pytest
import reference
from conftest import NOTHING, SAMSequential, weights_of
from keras import ops

import keras_sam

every = pytest.mark.parametrize("name", family.REGISTRY)
SGD = keras.optimizers.SGD


def train(model, batches):
    for x, y in batches:
        model.train_on_batch(x, y)
    return weights_of(model)


# LookSAM and its kin are not among them: at rho = 0 both gradients are the same, and the direction between them is not
# defined; nor is Bayesian SAM, which learns the posterior there.
OTHERS = ("looksam", "spectral_sam", "bayesian_sam")


@pytest.mark.parametrize("rho", [0.0, NOTHING])  # in one run of each step, and in two
@pytest.mark.parametrize("name", [name for name in family.REGISTRY if name not in OTHERS])
def test_zero_radius_is_the_base_run(two_layer, batches, name, rho):
    model, plain = two_layer(family.make(name, rho=rho)), two_layer(SGD(0.1, momentum=0.9))
    np.testing.assert_allclose(train(model, batches), train(plain, batches), atol=1e-6)
    for a, b in zip(model.optimizer.base_optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, NOTHING])
def test_bayesian_sam_at_zero_radius_with_a_posterior_that_learns_nothing_is_the_base_run(two_layer, batches, rho):
    nothing = {"num_data": 10**15, "prior_precision": 0.0, "beta_1": 0.0, "beta_2": 1 - 1e-12}
    model = two_layer(keras_sam.BayesianSAMOptimizer(SGD(0.1, momentum=0.9), rho=rho, **nothing))
    plain = two_layer(SGD(0.1, momentum=0.9))
    np.testing.assert_allclose(train(model, batches), train(plain, batches), atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (keras_sam.GSAMOptimizer, {"alpha": 0.0}),
        (keras_sam.LookSAMOptimizer, {"interval": 1}),
        (keras_sam.FriendlySAMOptimizer, {"sigma": 0.0}),
        (keras_sam.VaSSOOptimizer, {"theta": 1.0}),
        (keras_sam.WSAMOptimizer, {"gamma": 0.5, "decouple": False}),
        (keras_sam.SAMOptimizer, {"perturb": "."}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_equals_sam(two_layer, batches, algorithm, options):
    model = two_layer(algorithm(SGD(0.1, momentum=0.9), rho=0.3, **options))
    sam = two_layer(keras_sam.SAMOptimizer(SGD(0.1, momentum=0.9), rho=0.3))
    np.testing.assert_allclose(train(model, batches), train(sam, batches), atol=1e-6)


def oracle(batches, rho=0.3, moves=1.0, interval=1, ascent_samples=16):
    """SAM of which `moves` masks the weights to perturb."""
    loss, w, base = reference.two_layer_loss, reference.TRAJECTORIES["initial"], reference.SGD()
    for step, (x, y) in enumerate(batches):
        g = reference.gradient(loss, w, (x[:ascent_samples], y[:ascent_samples]))
        e = reference.perturbation(w, moves * g, rho) if step % interval == 0 else 0.0
        w = base(w, reference.gradient(loss, w + e, (x, y)))
        yield w


KERNELS = reference.flatten([np.full(shape, len(shape) == 2) for shape in reference.SHAPES])
OPTIONS = [
    ({"perturb": r"kernel$"}, {"moves": KERNELS}),
    ({"perturb": [r"bias$"]}, {"moves": 1 - KERNELS}),
    ({"interval": 3}, {"interval": 3}),
    ({"ascent_fraction": 0.25}, {"ascent_samples": 4}),
    ({"ascent_fraction": 0.01}, {"ascent_samples": 1}),
]


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["default", "eager"])
@pytest.mark.parametrize(
    ("options", "meaning"), OPTIONS, ids=["kernels", "biases", "interval", "quarter", "one sample"]
)
def test_options_equal_the_oracle(two_layer, batches, options, meaning, mode):
    model = two_layer(keras_sam.SAMOptimizer(SGD(0.1, momentum=0.9), rho=0.3, **options), **mode)
    for (x, y), expected in zip(batches, oracle(batches, **meaning), strict=True):
        model.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-5)


def test_ascent_fraction_of_a_batch_whose_size_only_the_graph_knows(two_layer, batches):
    model = two_layer(keras_sam.SAMOptimizer(SGD(0.1, momentum=0.9), rho=0.3, ascent_fraction=0.25))
    x, y = (np.concatenate(parts)[:37] for parts in zip(*batches, strict=True))  # the last of 16, 16 and 5
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    loss, w, base = reference.two_layer_loss, reference.TRAJECTORIES["initial"], reference.SGD()
    for begin, samples in ((0, 4), (16, 4), (32, 1)):
        batch = x[begin : begin + 16], y[begin : begin + 16]
        g = reference.gradient(loss, w, (batch[0][:samples], batch[1][:samples]))
        w = base(w, reference.gradient(loss, w + reference.perturbation(w, g, 0.3), batch))
    np.testing.assert_allclose(weights_of(model), w, rtol=0, atol=2e-5)


@every
def test_config_and_pickle(two_layer, name):
    optimizer = family.make(name)
    config = optimizer.get_config()
    assert family.REGISTRY[name][1].items() <= config.items()
    copies = [
        pickle.loads(pickle.dumps(optimizer)),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
        type(optimizer).from_config(config),
    ]
    for copy in copies:
        assert type(copy) is type(optimizer)
        assert copy.get_config() == config


@every
def test_a_saved_model_goes_on(tmp_path, two_layer, batches, name):
    model = two_layer(family.make(name))
    train(model, batches[:3])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"SAMSequential": SAMSequential})
    assert type(loaded.optimizer) is type(model.optimizer)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    np.testing.assert_allclose(train(loaded, batches[3:]), train(model, batches[3:]), atol=1e-6)


def step(optimizer, ascent, descent, variables):
    """A hand-written step; the weights in between."""
    ascent = ascent if optimizer.ascent_needs_gradient else None
    if keras.backend.backend() != "jax":
        if optimizer.draws_noise:
            optimizer.noise_step(variables)
        optimizer.first_step(ascent, variables)
        perturbed = [v.numpy().copy() for v in variables]
        optimizer.second_step(descent, variables)
        return perturbed
    # Keras's loss scaler works statelessly only.
    if not optimizer.built:
        optimizer.build(variables)
    weights, state = ([v.value for v in group] for group in (variables, optimizer.variables))
    if optimizer.draws_noise:
        weights, state = optimizer.stateless_noise_step(state, weights)
    weights, state = optimizer.stateless_first_step(state, ascent, weights)
    perturbed = [np.asarray(w) for w in weights]
    weights, state = optimizer.stateless_second_step(state, descent, weights)
    for variable, value in zip([*variables, *optimizer.variables], [*weights, *state], strict=True):
        variable.assign(value)
    return perturbed


def two_variables():
    return [keras.Variable([1.0, -2.0], name="kernel"), keras.Variable([3.0], name="gamma")]


def tensors(*values):
    return [None if value is None else ops.convert_to_tensor(value, "float32") for value in values]


@every
def test_zero_gradients_leave_the_weights(name):
    optimizer, variables = family.make(name), two_variables()
    for _ in range(2):
        step(optimizer, tensors([0.0, 0.0], [0.0]), tensors([0.0, 0.0], [0.0]), variables)
    assert [v.numpy().tolist() for v in variables] == [[1.0, -2.0], [3.0]]


@every
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_variable_without_a_gradient_stays(name):
    optimizer, variables = family.make(name), two_variables()
    for _ in range(3):
        step(optimizer, tensors([0.5, 1.0], None), tensors([0.7, 0.9], None), variables)
    if optimizer.interval > 1:
        optimizer.single_step(tensors([0.7, 0.9], None), variables)
    assert variables[1].numpy().tolist() == [3.0]
    assert np.abs(variables[0].numpy() - [1.0, -2.0]).min() > 0.05
    for _ in range(2):  # in one of the passes only
        step(optimizer, tensors([0.5, 1.0], [1.0]), tensors([0.7, 0.9], None), variables)
        step(optimizer, tensors([0.5, 1.0], None), tensors([0.7, 0.9], [1.0]), variables)
    assert all(np.isfinite(v.numpy()).all() for v in variables)


@pytest.mark.parametrize("name", [name for name in family.REGISTRY if name != "msam"])  # it has no ascent gradient
def test_without_any_ascent_gradient_the_descent_gradient_decides(name):
    optimizer, variables = family.make(name, base=SGD(0.1)), two_variables()
    step(optimizer, tensors(None, None), tensors([1.0, 0.0], [2.0]), variables)
    assert not any(slot.numpy().any() for slot in optimizer.perturbations if slot is not None)
    assert all(np.isfinite(v.numpy()).all() for v in variables)
    assert variables[0].numpy()[0] < 1.0


@pytest.mark.parametrize("name", [name for name in family.REGISTRY if name != "msam"])  # it has no ascent gradient
def test_a_gradient_that_is_not_finite_perturbs_nothing_and_is_not_remembered(name):
    optimizer, variables = family.make(name, base=SGD(0.0)), two_variables()
    finite = tensors([0.5, 1.0], [1.0])
    step(optimizer, finite, finite, variables)
    step(optimizer, tensors([np.inf, 1.0], [1.0]), finite, variables)
    assert not any(slot.numpy().any() for slot in optimizer.perturbations if slot is not None)
    step(optimizer, finite, finite, variables)
    np.testing.assert_allclose(variables[0].numpy(), [1.0, -2.0], atol=1e-6)
    assert all(np.isfinite(ops.convert_to_numpy(v)).all() for v in optimizer.variables)


def test_an_average_begins_with_the_first_finite_gradient():
    optimizer, variables = family.make("friendly_sam", base=SGD(0.0)), two_variables()
    for ascent in ([np.inf, 1.0], [0.5, 1.0]):
        step(optimizer, tensors(ascent, [1.0]), tensors([0.5, 1.0], [1.0]), variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(optimizer.average.read([0])[0]), [0.5, 1.0])


def test_no_ascent_gradient_is_a_zero_one_not_that_of_an_earlier_step():
    optimizer, variables = family.make("wsam_coupled", rho=0.0, base=SGD(0.1)), two_variables()
    gradients = tensors([0.0, 0.0], [1.0])
    step(optimizer, gradients, gradients, variables)
    step(optimizer, [gradients[0], None], gradients, variables)
    a = 0.7 / 0.3
    assert float(variables[1].numpy()[0]) == pytest.approx(3.0 - 0.1 - 0.1 * a)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_looksam_reuses_nothing_of_a_variable_without_a_second_gradient():
    optimizer, variables = family.make("looksam", base=SGD(0.1)), two_variables()
    step(optimizer, tensors([0.5, 1.0], [1.0]), tensors([0.7, 0.9], None), variables)
    optimizer.single_step(tensors([0.0, 0.0], [2.0]), variables)
    assert float(variables[1].numpy()[0]) == pytest.approx(3.0 - 0.1 * 2.0)


@every
def test_a_loss_scale_that_changes_makes_no_difference(name):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, 2, 3))  # of three steps and both passes
    found = []
    for scales in ([2.0, 1024.0, 8.0], [1.0, 1.0, 1.0]):
        base = keras.optimizers.LossScaleOptimizer(SGD(0.1, momentum=0.9))
        optimizer, variables = family.make(name, base=base), two_variables()
        optimizer.build(variables)
        found.append([])
        for scale, passes in zip(scales, gradients, strict=True):
            base.dynamic_scale.assign(scale)
            ascent, descent = (tensors(scale * g[:2], scale * g[2:]) for g in passes)
            found[-1].append(reference.flatten(step(optimizer, ascent, descent, variables)))
            found[-1].append(reference.flatten(v.numpy() for v in variables))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@every
def test_an_overflow_in_a_hand_written_loop_leaves_the_weights(name):
    base = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=4.0)
    optimizer, variables = family.make(name, base=base), two_variables()
    for overflowing in ([np.inf, 1.0], [np.nan, 0.0]):
        gradients = tensors(overflowing, [1.0])
        step(optimizer, gradients, gradients, variables)
    assert [v.numpy().tolist() for v in variables] == [[1.0, -2.0], [3.0]]
    finite = tensors([0.5, 1.0], [1.0])
    for _ in range(2):
        before = reference.flatten(v.numpy() for v in variables)
        perturbed = step(optimizer, finite, finite, variables)
    assert all(np.isfinite(v.numpy()).all() for v in variables)
    assert np.abs(reference.flatten(perturbed) - before).max() > 0.05  # it climbs again


@every
def test_an_overflow_is_as_if_the_step_had_not_been(name, batches):
    model = network("mixed_float16")
    base = keras.optimizers.LossScaleOptimizer(SGD(0.1, momentum=0.9), initial_scale=1024.0)
    model.compile(family.make(name, base=base), loss=LOSS, auto_scale_loss=False)
    before = train(model, batches[:2])
    base.dynamic_scale.assign(2.0**60)
    np.testing.assert_array_equal(train(model, batches[2:3]), before)
    assert float(ops.convert_to_numpy(base.dynamic_scale)) == 2.0**59
    base.dynamic_scale.assign(1024.0)
    moved = np.abs(train(model, batches[3:5]) - before).max()  # what was remembered is finite
    assert 0.01 < moved < 1.0


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(policy):
    keras.utils.set_random_seed(0)
    return SAMSequential([keras.Input((6,)), keras.layers.Dense(3, dtype=policy)])


@every
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_dtypes_are_kept(name, policy, batches):
    model = network(policy)
    model.compile(family.make(name), LOSS)
    train(model, batches[:1])
    dtypes = [v.dtype for v in (*model.variables, *model.optimizer.variables)]
    train(model, batches[1:3])
    assert [v.dtype for v in (*model.variables, *model.optimizer.variables)] == dtypes
    assert {v.dtype for v in model.trainable_variables} == {"float32" if "mixed" in policy else policy}
    assert all(slot.dtype == "float32" for slot in model.optimizer.perturbations if slot is not None)
    assert np.isfinite(weights_of(model)).all()


@every
def test_weights_are_unperturbed_between_steps(two_layer, batches, name):
    model = two_layer(family.make(name, rho=0.5, base=SGD(0.0)))
    before, climbed = weights_of(model), []
    for x, y in batches:
        model.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model), before, atol=1e-6)
        climbed.append(max(np.abs(slot.numpy()).max() for slot in model.optimizer.perturbations if slot is not None))
    assert max(climbed) > 0.05 or model.optimizer.draws_noise  # which takes it out of the slots, too


class Samples(keras.layers.Layer):
    """Counts the samples that go through it when it runs, compiled or not."""

    seen = 0

    def add(self, number):
        self.seen += int(number)

    def call(self, x, training=False):
        if training and keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(lambda number=x.shape[0]: self.add(number))
        elif training and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.py_function(self.add, [tf.shape(x)[0]], [])
        elif training:
            self.add(x.shape[0])
        return x


PASSES = {"interval": 1 + 1 / 3, "ascent_fraction": 1.25, "looksam": 1.2, "spectral_sam": 1 + 1 / 3, "msam": 1.0}


@pytest.mark.parametrize(
    ("name", "eager"), [*((name, False) for name in family.REGISTRY), ("interval", True), ("looksam", True)]
)
def test_gradient_passes(name, classification, eager):
    counter = Samples()
    model = SAMSequential([keras.Input((6,)), counter, keras.layers.Dense(3)])
    model.compile(
        family.make(name), LOSS, run_eagerly=eager, jit_compile=not eager and keras.backend.backend() == "jax"
    )
    x, y = (np.tile(part, (3, *[1] * (part.ndim - 1)))[:240] for part in classification)
    model.fit(x, y, batch_size=16, verbose=0)  # 15 steps
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()
    assert counter.seen / len(x) == pytest.approx(PASSES.get(name, 2.0))  # all others take 2
    assert model.optimizer.gradient_passes == pytest.approx(PASSES.get(name, 2.0))


def test_perturb_makes_slots_for_what_it_names_only(two_layer, batches):
    model = two_layer(keras_sam.SAMOptimizer("sgd", perturb="bias$"))
    train(model, batches[:1])
    assert [slot is not None for slot in model.optimizer.perturbations] == [False, True, False, True]


def test_a_pattern_that_matches_nothing_is_an_error(two_layer, batches):
    model = two_layer(keras_sam.SAMOptimizer("sgd", perturb=["bias$", "gamma$"]))
    with pytest.raises(ValueError, match=r"'gamma\$' matches none of \[.*kernel.*Received: perturb=\['bias\$'"):
        model.train_on_batch(*batches[0])


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (keras_sam.SAMOptimizer, {"perturb": "("}, "`perturb` must be a regular expression"),
        (keras_sam.SAMOptimizer, {"perturb": []}, "`perturb` must be a regular expression"),
        (keras_sam.SAMOptimizer, {"perturb": [3]}, "`perturb` must be a regular expression"),
        (keras_sam.SAMOptimizer, {"interval": 0}, "`interval` must be an integer >= 1"),
        (keras_sam.SAMOptimizer, {"interval": 2.0}, "`interval` must be an integer >= 1"),
        (keras_sam.SAMOptimizer, {"ascent_fraction": 0.0}, "`ascent_fraction` must be a float above 0 and at most 1"),
        (keras_sam.SAMOptimizer, {"ascent_fraction": 1.1}, "`ascent_fraction` must be a float above 0 and at most 1"),
        (keras_sam.ASAMOptimizer, {"eta": -0.1}, "`eta` must be a float >= 0"),
        (keras_sam.ASAMOptimizer, {"adaptive": True}, "takes no `adaptive`"),
        (keras_sam.GSAMOptimizer, {"alpha": -1.0}, "`alpha` must be a float >= 0"),
        (keras_sam.LookSAMOptimizer, {"alpha": "1"}, "`alpha` must be a float >= 0"),
        (keras_sam.LookSAMOptimizer, {"num_batch_splits": 2}, "takes no `num_batch_splits`"),
        (keras_sam.WSAMOptimizer, {"gamma": 1.0}, "`gamma` must be a float >= 0 and below 1"),
        (keras_sam.WSAMOptimizer, {"num_batch_splits": 2}, "`num_batch_splits` does not go with `decouple=True`"),
        (keras_sam.FriendlySAMOptimizer, {"sigma": float("nan")}, "`sigma` must be a float >= 0"),
        (keras_sam.FriendlySAMOptimizer, {"lmbda": 1.0}, "`lmbda` must be a float >= 0 and below 1"),
        (keras_sam.VaSSOOptimizer, {"theta": 0.0}, "`theta` must be a float above 0 and at most 1"),
        (keras_sam.MSAMOptimizer, {"momentum": 1.0}, "`momentum` must be a float >= 0 and below 1"),
        (keras_sam.MSAMOptimizer, {"interval": 2}, "takes no `interval`: there is no ascent pass"),
        (keras_sam.MSAMOptimizer, {"ascent_fraction": 0.5}, "takes no `ascent_fraction`"),
    ],
)
def test_bad_arguments(algorithm, options, message):
    with pytest.raises(ValueError, match=message) as error:
        algorithm("sgd", **options)
    (name,) = options
    assert f"Received: {name}=" in str(error.value)


def test_decoupled_wsam_refuses_gradient_accumulation():
    with pytest.raises(ValueError, match=r"Pass `decouple=False`. Received: gradient_accumulation_steps=2"):
        keras_sam.WSAMOptimizer(SGD(0.1, gradient_accumulation_steps=2))


def test_steps_that_do_not_fit():
    variables = two_variables()
    gradients = tensors([0.5, 1.0], [1.0])
    sam, msam = family.make("sam"), family.make("msam")
    with pytest.raises(ValueError, match=r"SAMOptimizer climbs along a gradient.*Received: gradients=None"):
        sam.first_step(None, variables)
    with pytest.raises(ValueError, match=r"MSAMOptimizer climbs without a gradient.*Received: 2 gradients"):
        msam.first_step(gradients, variables)
    sam.first_step(gradients, variables)
    with pytest.raises(RuntimeError, match=r"`single_step` was called on weights that are perturbed"):
        sam.single_step(gradients, variables)


def test_decoupled_wsam_keeps_constraints():
    w = keras.Variable([0.1, 1.0], name="kernel")
    w.constraint = keras.constraints.NonNeg()
    optimizer = keras_sam.WSAMOptimizer(SGD(0.1), rho=0.5, gamma=0.9)
    step(optimizer, tensors([0.0, 1.0]), tensors([5.0, 1.0]), [w])
    assert w.numpy().tolist() == pytest.approx([0.0, 0.9])


def test_rho_schedule():
    rate = keras.optimizers.schedules.CosineDecay(0.2, 10, alpha=0.1)
    rho = keras_sam.RhoSchedule(rate, 0.2, max_rho=0.5, min_learning_rate=0.02, min_rho=0.1)
    for i in (0, 3, 10):
        share = (0.2 * (0.9 * 0.5 * (1 + np.cos(np.pi * i / 10)) + 0.1) - 0.02) / 0.18
        assert float(rho(i)) == pytest.approx(0.1 + 0.4 * share, abs=1e-6)
    copy = keras_sam.GSAMOptimizer.from_config(keras_sam.GSAMOptimizer(SGD(rate), rho=rho).get_config()).rho
    assert copy.get_config() == rho.get_config()
    for options, message in (
        ({"max_learning_rate": 0.0}, "`max_learning_rate` must be a float above min_learning_rate=0.0"),
        ({"learning_rate": 0.1}, "`learning_rate` must be a `keras.optimizers.schedules.LearningRateSchedule`"),
        ({"max_rho": -1.0}, "`max_rho` must be a float >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_sam.RhoSchedule(**{"learning_rate": rate, "max_learning_rate": 0.2, "max_rho": 0.5} | options)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize("algorithm", [name for name in keras_sam.__all__ if name.endswith("Optimizer")])
def test_autograph_can_transform_every_method(algorithm):
    """In a user's `tf.function`; else TensorFlow prints a long warning at the first step."""
    import tensorflow as tf

    for _, method in inspect.getmembers(getattr(keras_sam, algorithm), inspect.isfunction):
        if method.__module__.startswith("keras_sam.optimizers"):
            assert tf.autograph.to_code(method)
