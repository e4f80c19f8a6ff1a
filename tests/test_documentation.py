"""The code blocks of README and documentation, as they stand; the table of algorithms; links and the reference."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sam
import keras_sam.analysis
import keras_sam.callbacks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {
    page.relative_to(ROOT).as_posix(): page.read_text() for page in sorted(ROOT.glob("docs/**/*.md"))
}
BLOCKS = [
    (path, backend, code)
    for path, text in PAGES.items()
    if "migration" not in path  # those have a test of their own
    for backend, code in re.findall(r"(?:^<!-- (\w+) -->\n)?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
# Each once, though two pages may have it.
HERE = {code: path for path, backend, code in reversed(BLOCKS) if backend in ("", keras.backend.backend())}


def test_blocks_were_found():
    assert {backend for _, backend, _ in BLOCKS} == {"", "tensorflow", "jax", "torch", "keras_tuner"}
    assert {"README.md", "docs/index.md", "docs/loops.md", "docs/sharpness.md"} <= {path for path, _, _ in BLOCKS}


@pytest.mark.parametrize("code", HERE, ids=[f"{path}-{i}" for i, path in enumerate(HERE.values())])
def test_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "block.py"  # in a file of its own, as AutoGraph looks its source up by file and line
    script.write_text(code)
    exec(compile(code, str(script), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[path]):
        if not target.startswith("https://"):
            assert (ROOT / path).parent.joinpath(target.split("#")[0]).exists(), target


def test_every_public_name_is_in_the_reference():
    public = {
        f"{module.__name__}.{name}"
        for module in (keras_sam, keras_sam.analysis, keras_sam.callbacks)
        for name in module.__all__
    }
    described = re.findall(r"^::: (\S+)$", "".join(PAGES.values()), re.MULTILINE)
    assert sorted(described) == sorted(public)


ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in README.splitlines()
    if re.match(r"\| `\w+Optimizer\(", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_table_of_algorithms(row):
    call, _, passes, copies, _ = row
    name, arguments = re.match(r"`(\w+)\((.*)\)`", call).groups()
    optimizer = eval(f'keras_sam.{name}("sgd", {arguments})')
    weights = [keras.Variable(np.ones(8), name=name) for name in ("kernel", "gamma", "beta")]
    optimizer.build(weights)
    assert optimizer.gradient_passes == pytest.approx(float(passes))
    slots = [v for v in optimizer._variables if len(v.shape) and "float" in v.dtype]  # not the state of random draws
    elements = sum(int(np.prod(v.shape)) for v in slots)
    assert elements == (16 if copies == "of those that match" else 24 * int(copies))


def test_every_algorithm_is_in_the_table():
    named = {row[0].strip("`").split("(")[0] for row in ROWS}
    assert named == {name for name in keras_sam.__all__ if name.endswith("Optimizer")}
