"""The scripts in `examples/`, each in a process of its own, as a user runs it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]


def torchrun():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = ["--master-addr", "127.0.0.1", "--master-port", port]
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", *address]


SCRIPTS = {
    "tensorflow": {"mirrored": ["examples/tensorflow_mirrored.py"]},
    "jax": {"data_parallel": ["examples/jax_data_parallel.py"]},
    "torch": {
        "ddp": ["examples/torch_ddp.py"],
        "ddp_per_worker": ["examples/torch_ddp.py", "--per-worker"],
    },
}[keras.backend.backend()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_trains(name):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    launcher = torchrun() if name.startswith("ddp") else []
    command = [sys.executable, *launcher, *SCRIPTS[name]]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (count, accuracy) = re.search(r"(\d+) \w+, train accuracy (\S+)", run.stdout).groups()
    assert int(count) > 1
    assert float(accuracy) > 0.9
