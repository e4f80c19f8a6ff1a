"""The scripts and the notebook in `examples/`, each in a process of its own, as a user runs it."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "sharp_and_flat.ipynb"
BACKEND = keras.backend.backend()


def torchrun():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = ["--master-addr", "127.0.0.1", "--master-port", port]
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", *address]


# On several devices: each prints how many, and its train accuracy.
PARALLEL = {
    "tensorflow": [["tensorflow_mirrored.py"]],
    "jax": [["jax_data_parallel.py"]],
    "torch": [["torch_ddp.py"], ["torch_ddp.py", "--per-worker"]],
}
# On one: each prints how many test samples there are, what it reached on them and, as a sign that SAM is at work, the
# rise of the loss or the length of the perturbation. Beside it, what it must at least reach; chance is far below.
ONE_DEVICE = {
    "image_classification.py": 0.7,  # guessing: 0.1
    "text_classification.py": 0.9,  # 0.5
    "tabular_regression.py": 0.25,  # the mean of the targets: 0
    "time_series.py": 0.7,  # the mean of the days before: 0
    "fine_tuning.py": 0.8,  # 0.2
    "custom_train_step.py": 0.3,  # 0.01
    "mean_teacher.py": 0.75,  # 0.1
    "two_optimizers.py": 0.6,  # 0.1
}
LOOPS = {"tensorflow": "loop_tensorflow.py", "jax": "loop_jax.py", "torch": "loop_torch.py"}


def run(*command):
    """What the command prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", PARALLEL[BACKEND], ids=" ".join)
def test_example_on_several_devices_trains(script):
    launcher = torchrun() if BACKEND == "torch" else []
    printed = run(*launcher, f"examples/{script[0]}", *script[1:])
    count, accuracy = re.search(r"(\d+) \w+, train accuracy (\S+)", printed).groups()
    assert int(count) > 1
    assert float(accuracy) > 0.9


@pytest.mark.parametrize(("script", "least"), [*ONE_DEVICE.items(), (LOOPS[BACKEND], 0.9)])
def test_example_trains_with_sam(script, least):
    last = run(f"examples/{script}").splitlines()[-1]
    reached, rise = re.fullmatch(r"\d+ [\w ]+, (?:accuracy|R2) (\S+), (?:sharpness|perturbation) (\S+)", last).groups()
    assert float(reached) >= least
    assert float(rise) > 0


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebook_runs():
    first, *others = ["".join(cell["source"]) for cell in cells()]
    quick = first.replace("EPOCHS = 60", "EPOCHS = 8")
    assert quick != first
    lines = re.findall(
        r"(\w+): test accuracy (\S+), sharpness (\S+), top eigenvalue (\S+)", run("-c", "\n".join([quick, *others]))
    )
    assert [name for name, *_ in lines] == ["SGD", "SAM"]
    for _, accuracy, sharpness, eigenvalue in lines:
        assert float(accuracy) > 0.7
        assert float(sharpness) > 0
        assert float(eigenvalue) > 0
    assert float(lines[1][2]) < float(lines[0][2])  # SAM's minimum is flatter


def test_notebook_is_stored_with_its_outputs_and_is_small():
    assert NOTEBOOK.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}  # no warnings
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3


def test_every_example_is_run():
    parallel = {script[0] for scripts in PARALLEL.values() for script in scripts}
    known = parallel | ONE_DEVICE.keys() | set(LOOPS.values()) | {NOTEBOOK.name}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == known
