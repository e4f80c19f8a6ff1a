"""The peers take the same steps as we do, so that the comparison of costs is one of equals."""

import keras
import numpy as np
import peers
from step_cost import batch

import keras_sam

OURS = {
    "SAM": keras_sam.SAMOptimizer,
    "sam": keras_sam.SAMOptimizer,
    "SharpnessAwareMinimization": keras_sam.SAMOptimizer,
    "WSAM": keras_sam.WSAMOptimizer,
    "GSAM": keras_sam.GSAMOptimizer,
}


def test_same_weights_after_five_steps():
    """From the same initial weights, on a network without batch norm and dropout."""
    x, y = batch("mlp", 16)
    compared = []
    for peer in peers.PEERS[keras.backend.backend()]("mlp", x, y):
        model = keras_sam.as_sam_model(peers.make_model("mlp"))
        optimizer = keras.optimizers.SGD(peers.LEARNING_RATE, momentum=peers.MOMENTUM)
        name = peer.name.replace(".", " ").split()[-1]
        if name != "SGD":
            optimizer = OURS[name](optimizer, rho=peers.RHO)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        start = model.get_weights()
        for _ in range(5):
            peer.step()
            model.train_on_batch(x, y)
        for found, ours, before in zip(peer.weights(), model.get_weights(), start, strict=True):
            np.testing.assert_allclose(found, ours, rtol=0, atol=2e-5, err_msg=peer.name)
            assert np.abs(ours - before).max() > 1e-4
        compared.append(name)
    assert "SGD" in compared
    assert len(compared) >= 2
