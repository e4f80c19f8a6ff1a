"""BayesFlow: an approximator's own training step takes its gradients by SAM."""

import contextlib
import functools

import bayesflow as bf
import keras
import numpy as np
import pytest

import keras_sam

if keras.backend.backend() == "torch":
    import torch

    torch.set_grad_enabled(True)  # the import has turned gradients off, for all that this process trains


@pytest.fixture(autouse=True)
def _gradients_as_bayesflow_has_them():
    with torch.no_grad() if keras.backend.backend() == "torch" else contextlib.nullcontext():
        yield


class SAMApproximator(keras_sam.SAMModel, bf.ContinuousApproximator):
    """An approximator that trains with SAM."""


# With its default scale of 30 flow matching makes so much of rounding errors that on TensorFlow even BayesFlow's own
# eager steps end elsewhere than its compiled ones.
NETWORKS = {
    "coupling": lambda: bf.networks.CouplingFlow(depth=1, subnet_kwargs={"widths": (16,)}),
    "flow matching": lambda: bf.networks.FlowMatching(subnet_kwargs={"widths": (16,), "fourier_scale": 1.0}),
}


@functools.cache
def trained(network, rho=None, twin=False):
    """The weights, and the losses by epoch: by SGD alone or by SAM around it, in a class of its own or as a twin."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(128, 2)).astype("float32")
    x = (theta + 0.1 * rng.normal(size=(128, 2))).astype("float32")
    dataset = bf.OfflineDataset(
        {"inference_variables": theta, "inference_conditions": x}, batch_size=32, adapter=None, shuffle=False
    )
    model_class = bf.ContinuousApproximator if rho is None or twin else SAMApproximator
    model = model_class(inference_network=NETWORKS[network]())
    model.build_from_data(dataset[0])
    if twin:
        model = keras_sam.as_sam_model(model)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer if rho is None else keras_sam.SAMOptimizer(optimizer, rho=rho))
    history = model.fit(dataset=dataset, epochs=6, verbose=0).history
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]), np.array(history["loss"])


@pytest.mark.parametrize(("network", "twin"), [("coupling", False), ("coupling", True), ("flow matching", False)])
def test_trains_as_without_at_rho_0_and_with_falling_loss_at_others(network, twin):
    """Flow matching draws noise and times in each step, which both gradients must share."""
    weights, losses = trained(network)
    same, same_losses = trained(network, rho=1e-300, twin=twin)
    np.testing.assert_allclose(same, weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(same_losses, losses, atol=1e-5)
    other, other_losses = trained(network, rho=0.1, twin=twin)
    assert np.abs(other - weights).max() > 1e-4
    assert np.isfinite(other_losses).all()
    assert other_losses[-1] < other_losses[0] - 0.05
