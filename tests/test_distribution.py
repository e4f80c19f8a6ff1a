"""Several devices and several processes equal one; the workers run in processes of their own, on loopback."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

WORKERS = Path(__file__).parent / "workers"


def free_ports(count):
    with contextlib.ExitStack() as stack:  # all open at once, so that they differ
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def run(tmp_path):
    """Runs a worker once, or in several processes at once, and loads what each saved."""

    def start(script, *arguments, processes=1, **environment):
        ports, running = free_ports(processes), []
        for process in range(processes):
            out = tmp_path / f"{'-'.join(map(str, arguments))}-{process}-of-{processes}.npz"
            more = map(str, [process, *ports]) if processes > 1 else []
            command = [sys.executable, str(WORKERS / script), *map(str, arguments), str(out), *more]
            paths = [str(WORKERS), str(Path(__file__).parents[1])]
            path = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
            running.append((out, subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path} | environment)))
        try:
            for _, worker in running:
                assert worker.wait(timeout=300) == 0
        finally:
            for _, worker in running:
                worker.kill()
        return [np.load(out) for out, _ in running]

    return start


def weights(result):
    return [result[name] for name in sorted(result.files) if name.startswith("arr_")]


def assert_same_training(found, expected, tolerance=5e-4):
    assert len(weights(found)) == 4
    for a, b in zip(weights(found), weights(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


@pytest.mark.only("jax")
@pytest.mark.parametrize(("mode", "shard"), [("data", (6, 8)), ("model", (6, 4))])
def test_jax_on_four_devices(run, mode, shard):
    (one,) = run("jax_devices.py", "single")
    (four,) = run("jax_devices.py", mode, **FOUR_DEVICES)
    assert_same_training(four, one)
    assert int(four["devices"]) == 4
    assert tuple(four["shard_shape"]) == shard
    if mode == "data":
        assert bool(four["shards_equal"])


@pytest.mark.only("jax")
def test_jax_in_two_processes(run):
    (one,) = run("jax_devices.py", "single")
    results = run("jax_devices.py", "processes", processes=2)
    for result in results:
        assert_same_training(result, one)
    for a, b in zip(*map(weights, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("mode", ["fit", "loop"])
def test_tensorflow_mirrored(run, mode, count):
    (one,) = run("tensorflow_devices.py", mode, 1)
    (mirrored,) = run("tensorflow_devices.py", mode, count)
    assert_same_training(mirrored, one)
    assert mirrored["replicas"].tolist() == [count] * 4
    assert bool(mirrored["equal"])
    assert int(mirrored["iterations"]) == int(one["iterations"]) == 20


REMEMBERING = [
    "GSAMOptimizer",
    "WSAMOptimizer",
    "FriendlySAMOptimizer",
    "VaSSOOptimizer",
    "MSAMOptimizer",
    "BayesianSAMOptimizer",
]


@pytest.fixture
def algorithm(request, monkeypatch):
    monkeypatch.setenv("ALGORITHM", request.param)
    return request.param


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize("algorithm", REMEMBERING, indirect=True)
def test_tensorflow_mirrored_family(run, algorithm):
    (mirrored,) = run("tensorflow_devices.py", "fit", 2)
    assert_same_training(mirrored, Result(on_one_device()))
    assert bool(mirrored["equal"])


@pytest.mark.only("jax")
@pytest.mark.parametrize(
    "algorithm", ["GSAMOptimizer", "LookSAMOptimizer", "SpectralSAMOptimizer", "BayesianSAMOptimizer"], indirect=True
)
def test_jax_model_parallel_family(run, algorithm):
    (four,) = run("jax_devices.py", "model", **FOUR_DEVICES)
    assert_same_training(four, Result(on_one_device()))


@pytest.mark.only("torch")
@pytest.mark.parametrize("algorithm", REMEMBERING, indirect=True)
def test_torch_ddp_family(run, algorithm):
    results = run("torch_processes.py", "averaged", processes=2)
    for result in results:
        assert_same_training(result, Result(on_one_device()))
    for a, b in zip(*map(weights, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.only("tensorflow")
@pytest.mark.parametrize(
    ("algorithm", "options", "compile_options"),
    [
        ("LookSAMOptimizer", {}, {}),
        ("SAMOptimizer", {"interval": 3}, {"steps_per_execution": 3}),  # of 20 steps, so that the last has two
        ("SAMOptimizer", {"interval": 3}, {"run_eagerly": True}),
    ],
    indirect=["algorithm"],
)
def test_tensorflow_mirrored_steps_that_differ(run, algorithm, options, compile_options):
    settings = {"OPTIONS": json.dumps(options), "COMPILE_OPTIONS": json.dumps(compile_options)}
    (mirrored,) = run("tensorflow_devices.py", "fit", 2, **settings)
    assert_same_training(mirrored, Result(on_one_device(**options)), tolerance=1e-5)
    assert bool(mirrored["equal"])
    assert int(mirrored["iterations"]) == 20


@pytest.mark.only("tensorflow")
def test_to_choose_within_a_replica_is_refused():
    import tensorflow as tf

    sys.path.insert(0, str(WORKERS))
    import problem

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = problem.network(problem.optimizer(interval=2))
    with pytest.raises(ValueError, match=r"cannot choose between steps within `strategy\.run`.*`single_step` in"):
        strategy.run(model.train_step, args=(next(problem.batches()),))


@pytest.mark.only("tensorflow")
def test_tensorflow_loop_in_two_processes(run):
    (one,) = run("tensorflow_devices.py", "loop", 1)
    results = run("tensorflow_devices.py", "loop", 1, processes=2)
    for result in results:
        assert_same_training(result, one)
    for a, b in zip(*map(weights, results), strict=True):
        np.testing.assert_array_equal(a, b)


def on_one_device(**options):
    sys.path.insert(0, str(WORKERS))
    import problem

    model = problem.network(problem.optimizer(**options))
    for x, y in problem.batches():
        model.train_on_batch(x, y)
    return {f"arr_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(model.trainable_variables)}


class Result(dict):
    """Looks like a loaded file."""

    files = property(list)


@pytest.mark.only("torch")
@pytest.mark.parametrize(("mode", "options"), [("averaged", {}), ("per_worker", {"num_batch_splits": 2})])
def test_torch_ddp(run, mode, options):
    results = run("torch_processes.py", mode, processes=2)
    for result in results:
        assert_same_training(result, Result(on_one_device(**options)))
    # Subtracting a perturbation of its own rounds a worker's small weights in its own way.
    tolerance = 0.0 if mode == "averaged" else 1e-6
    for a, b in zip(*map(weights, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.only("torch")
def test_torch_fit_in_several_processes_is_refused(run):
    for result in run("torch_processes.py", "fit", processes=2):
        assert "DistributedDataParallel" in str(result["message"])
        assert "first_step" in str(result["message"])
