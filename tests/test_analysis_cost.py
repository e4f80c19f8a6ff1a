"""The benchmark of curvature: that it measures what it says, in gradients of the same data."""

import json

import analysis_cost
import analysis_peers
import keras
import numpy as np
import pytest

from keras_sam import analysis

QUICK = ["--network", "mlp", "--samples", "16", "--batch-size", "8", "--rounds", "2"]


def test_all_costs_stand_beside_each_other(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_cost, "stay_on_one_core", lambda: "one core")
    monkeypatch.setattr(analysis_cost, "NETWORKS", {"mlp": (small, (64,))})
    monkeypatch.setattr(analysis_peers, "PEERS", {keras.backend.backend(): [absent, failing, own]})
    out = tmp_path / "cost.json"
    analysis_cost.main([*QUICK, "--out", str(out)])
    printed, result = capsys.readouterr().out, json.loads(out.read_text())
    names = ["gradient", "hessian", "gauss_newton", "fisher", "hessian, 8 vectors together", "own"]
    assert list(result["products"]) == names
    assert result["products"]["gradient"]["ratio"] == 1.0
    assert all(row["ratio"] > 0 for row in result["products"].values())
    searches = result["searches"]
    assert searches["own"]["error"] == 0.0
    assert searches["own"]["gradients"] == pytest.approx(21 * result["products"]["own"]["ratio"])
    assert searches["keras_sam"]["error"] < 1e-4
    assert "absent is not installed." in printed
    assert "failing fails on a Keras model: some reason." in printed
    assert "| own | 21 |" in printed


def small(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(classes)])


def absent(model, batches):
    raise ImportError


def failing(model, batches):
    raise RuntimeError("some reason")


def own(model, batches):
    """A peer that takes 7 products at each effort, and finds the eigenvalue with the third."""
    x, y = (np.concatenate([np.asarray(batch[i]) for batch in batches]) for i in (0, 1))
    value = analysis.hessian_eigenvalues(model, x, y, k=1, batch_size=8, tolerance=1e-7, verbose=0).values[0]
    return analysis_peers.Peer("own", lambda: sum(range(1000)), lambda effort: (value * (effort > 2), 7 * effort))


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_peers_find_the_same_eigenvalue():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 64)).astype("float32"), rng.integers(0, 10, 16)
    model = small((64,), 10)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = analysis.hessian_eigenvalues(model, x, y, k=1, verbose=0).values[0]
    tensors = [tuple(keras.ops.convert_to_tensor(part[i : i + 8]) for part in (x, y)) for i in (0, 8)]
    found, _ = analysis_peers.available(model, tensors)
    for peer in found:
        peer.product()
        value, products = peer.eigenvalue(5)
        assert value == pytest.approx(expected, rel=1e-2), peer.name
        assert products > 3
    names = {"torch": {"hessian-eigenthings", "PyHessian"}, "jax": {"matfree"}, "tensorflow": set()}
    assert {peer.name for peer in found} == names[keras.backend.backend()]
