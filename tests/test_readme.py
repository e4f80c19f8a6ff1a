"""The README's code blocks, as they stand."""

import re
from pathlib import Path

import keras
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python *(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
HERE = [code for backend, code in BLOCKS if backend in ("", keras.backend.backend())]


def test_blocks_were_found():
    assert {backend for backend, _ in BLOCKS} == {"", "tensorflow", "jax", "torch"}


@pytest.mark.parametrize("code", HERE, ids=lambda code: code.splitlines()[-1].strip()[:40])
def test_block_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
