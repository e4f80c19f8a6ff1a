"""The README's code blocks, as they stand, and its table of algorithms."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sam

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python *(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
HERE = [code for backend, code in BLOCKS if backend in ("", keras.backend.backend())]


def test_blocks_were_found():
    assert {backend for backend, _ in BLOCKS} == {"", "tensorflow", "jax", "torch"}


@pytest.mark.parametrize("code", HERE, ids=lambda code: code.splitlines()[-1].strip()[:40])
def test_block_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in README.splitlines()
    if re.match(r"\| `\w+Optimizer\(", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_table_of_algorithms(row):
    call, _, passes, copies, _ = row
    name, arguments = re.match(r"`(\w+)\((.*)\)`", call.replace("\\|", "|")).groups()
    optimizer = eval(f'keras_sam.{name}("sgd", {arguments})')
    weights = [keras.Variable(np.ones(8), name=name) for name in ("kernel", "gamma")]
    optimizer.build(weights)
    assert optimizer.gradient_passes == pytest.approx(float(passes))
    elements = sum(int(np.prod(v.shape)) for v in optimizer._variables if len(v.shape))
    assert elements == (8 if copies == "of those that match" else 16 * int(copies))


def test_every_algorithm_is_in_the_table():
    named = {row[0].strip("`").split("(")[0] for row in ROWS}
    assert named == {name for name in keras_sam.__all__ if name.endswith("Optimizer")}
