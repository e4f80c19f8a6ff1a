"""The mixin: what it refuses, and how it gets along with custom training steps."""

import keras
import numpy as np
import pytest
from conftest import SAMSequential, weights_of
from keras import ops

import keras_sam


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")


def layers():
    keras.utils.set_random_seed(2)
    return [keras.Input((4,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(1)]


def sam(rho=0.5):
    return keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1), rho=rho)


def test_plain_model_is_refused(data):
    model = keras.Sequential(layers())
    model.compile(sam(), "mse")
    with pytest.raises(RuntimeError, match=r"SAMModel.*as_sam_model.*first_step.*second_step"):
        model.fit(*data, verbose=0)


@pytest.mark.parametrize("model_class", [keras.Model, keras.Sequential])
def test_wrong_order_of_bases_is_refused(model_class):
    with pytest.raises(
        TypeError, match=rf"must stand before.*class Wrong\(keras_sam.SAMModel, {model_class.__name__}\)"
    ):

        class Wrong(model_class, keras_sam.SAMModel):
            pass


def test_subclass_of_a_sam_model_is_welcome(data):
    class Child(SAMSequential):
        pass

    model = Child(layers())
    model.compile(sam(), "mse")
    model.fit(*data, verbose=0)


class CustomStep(keras.Sequential):
    """Scales its loss by three, in a training step of its own that reads its logs in every pass."""

    steps = 0

    def train_step(self, *args):
        self.steps += 1
        result = super().train_step(*args)
        logs = result[0] if isinstance(result, tuple) else result
        assert "loss" in logs
        return result

    def compute_loss(self, *args, **kwargs):
        return 3.0 * super().compute_loss(*args, **kwargs)


def trained(model, data):
    model.compile(sam(), "mse", run_eagerly=True)
    for _ in range(3):
        model.train_on_batch(*data)
    return weights_of(model)


def test_custom_step_further_along_is_run_twice(data):
    class Mixed(keras_sam.SAMModel, CustomStep):
        pass

    model = Mixed(layers())
    weights = trained(model, data)
    assert model.steps == 6
    assert not np.allclose(weights, trained(SAMSequential(layers()), data))


def test_custom_step_in_front_sees_the_logs_of_the_first_pass(data):
    class Ahead(keras_sam.SAMModel, keras.Sequential):
        def train_step(self, *args):
            result = super().train_step(*args)
            logs = result[0] if isinstance(result, tuple) else result
            logs["twice"] = 2 * logs["loss"]
            return result

    model = Ahead(layers())
    model.compile(sam(), "mse")
    loss = float(model.evaluate(*data, verbose=0))
    logs = model.train_on_batch(*data, return_dict=True)
    assert logs["twice"] == pytest.approx(2 * loss, rel=1e-5)


class WithFunction(keras.Sequential):
    """Overrides `train_step` itself and calls the function."""

    def train_step(self, *args):
        return keras_sam.sam_train_step(self, *args)


class WithFunctionOverCustomStep(CustomStep):
    def train_step(self, *args):
        return keras_sam.sam_train_step(self, *args, train_step=super().train_step)


def test_function_equals_the_mixin(data):
    np.testing.assert_array_equal(trained(WithFunction(layers()), data), trained(SAMSequential(layers()), data))


def test_function_runs_the_step_it_is_given(data):
    class Mixed(keras_sam.SAMModel, CustomStep):
        pass

    model = WithFunctionOverCustomStep(layers())
    np.testing.assert_array_equal(trained(model, data), trained(Mixed(layers()), data))
    assert model.steps == 6


def test_function_with_an_ordinary_optimizer_is_one_plain_step(data):
    weights = []
    for model in (WithFunction(layers()), keras.Sequential(layers())):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(*data, shuffle=False, verbose=0)
        weights.append(weights_of(model))
    np.testing.assert_array_equal(*weights)


def test_metrics_that_a_custom_step_updates_itself_count_once(data):
    class OwnMetric(keras_sam.SAMModel, keras.Sequential):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = keras.metrics.Sum(name="seen")

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.seen.update_state(ops.ones_like(y))
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    model = OwnMetric(layers())
    model.compile(sam(), "mse")
    history = model.fit(*data, batch_size=4, epochs=2, verbose=0)
    assert history.history["seen"] == [16.0, 16.0]
