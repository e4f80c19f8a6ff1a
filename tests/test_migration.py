"""The migration guides' code blocks, as they stand: before and after train to the same weights.

A comment before a block says what it is: `start` (weights and data), `before`, `after`, or `shown`, which is not run;
then the backend that it needs, if any, and `splits` if it splits its batches. Blocks of an old package run with
`--peers`.
"""

import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import reference

import keras_sam

FOLDER = Path(__file__).parents[1] / "docs" / "migration"
KINDS, BACKENDS = {"start", "before", "after", "shown"}, {"tensorflow", "jax", "torch"}


class Block(NamedTuple):
    """A code block of a page."""

    page: str
    number: int
    words: frozenset[str]  # of the comment before it
    code: str

    @property
    def kind(self):
        (kind,) = self.words & KINDS
        return kind

    @property
    def splits(self):
        return 4 if "splits" in self.words else 1

    @property
    def runs_here(self):
        return keras.backend.backend() in (self.words & BACKENDS or BACKENDS)


def read(path):
    """The blocks of a page."""
    found = re.findall(r"(?:^<!-- ([\w ]+) -->\n)?^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(path.stem, number, frozenset(words.split()), code) for number, (words, code) in enumerate(found)]


BLOCKS = [block for path in sorted(FOLDER.glob("*.md")) for block in read(path)]
HERE = [block for block in BLOCKS if block.runs_here]
AFTER = [block for block in HERE if block.kind == "after"]
# simple-SAM cannot be installed: its block runs with our class under the old name, and needs no other package.
RENAMED = [block for block in HERE if block.kind == "before" and block.page == "simple_sam"]
OLD = [block for block in HERE if block.kind == "before" and block.page != "simple_sam"]


def name(block):
    return f"{block.page}-{block.number}"


@pytest.fixture
def weights_of_block(monkeypatch):
    """Runs a block and returns the weights it trained, and what it trained from."""

    def run(block, **data):
        if "from sam import SAM" in block.code:
            monkeypatch.setitem(sys.modules, "sam", sam_module(block.page))
        (start,) = (b for b in BLOCKS if b.page == block.page and b.kind == "start")
        namespace = {"__name__": "__main__"}
        exec(compile(start.code, f"{block.page}.md", "exec"), namespace)
        namespace |= data
        given = [namespace[key] for key in ("initial", "x", "y")]
        exec(compile(block.code, f"{block.page}.md", "exec"), namespace)
        return reference.flatten(keras.ops.convert_to_numpy(w) for w in namespace["weights"]), given

    return run


def sam_module(page):
    """What stands for a `sam.py` that users copy: something that is called the same way."""
    if page == "simple_sam":
        return types.SimpleNamespace(SAM=keras_sam.SAMOptimizer)
    import pytorch_optimizer

    return pytorch_optimizer


def oracle(initial, x, y, splits):
    """The weights that SAM trains: on the mean of the gradients at each part's own perturbation."""
    w, base, loss = reference.flatten(initial), reference.SGD(), reference.two_layer_loss
    for batch in zip(x.astype("float64"), y, strict=True):
        gradients = []
        for part in zip(*(np.split(array, splits) for array in batch), strict=True):
            e = reference.perturbation(w, reference.gradient(loss, w, part), rho=0.05)
            gradients.append(reference.gradient(loss, w + e, part))
        w = base(w, np.mean(gradients, axis=0))
    return w


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_the_pages_and_their_blocks():
    found = {page: {b.kind for b in BLOCKS if b.page == page} for page in {b.page for b in BLOCKS}}
    runnable = {"start", "before", "after"}
    assert found == {
        "tf_keras": runnable,
        "simple_sam": runnable | {"shown"},
        "pytorch_sam": runnable,
        "optax": runnable,
    }
    for block in BLOCKS:
        assert not block.words - KINDS - BACKENDS - {"splits"}
        compile(block.code, f"{block.page}.md", "exec")


def test_the_pages_of_this_backend():
    pages = {
        "tensorflow": ({"tf_keras", "simple_sam"}, {"tf_keras"}),
        "jax": ({"tf_keras", "simple_sam", "optax"}, {"optax"}),
        "torch": ({"tf_keras", "simple_sam", "pytorch_sam"}, {"pytorch_sam"}),
    }[keras.backend.backend()]
    assert ({b.page for b in AFTER}, {b.page for b in OLD}) == pages


@pytest.mark.parametrize("block", AFTER + RENAMED, ids=name)
def test_trains_as_the_formula_says(weights_of_block, block):
    found, given = weights_of_block(block)
    assert_equal(found, oracle(*given, block.splits))
    assert np.abs(found - reference.flatten(given[0])).max() > 0.1


@pytest.mark.filterwarnings("ignore")  # the old package's own
@pytest.mark.peer
@pytest.mark.parametrize("block", OLD, ids=name)
def test_before_and_after_train_the_same(weights_of_block, block):
    before, _ = weights_of_block(block)
    twins = [b for b in AFTER if b.page == block.page and b.splits == block.splits]
    assert twins
    for after in twins:
        assert_equal(weights_of_block(after)[0], before)


def published():
    """The weights and data of the trajectory recorded from davda54's repository."""
    data = reference.TRAJECTORIES
    initial = [w.astype("float32") for w in reference.unflatten(data["initial"])]
    return {"initial": initial, "x": data["x"].astype("float32"), "y": data["y"].astype("int64")}


@pytest.mark.only("torch")
@pytest.mark.parametrize("block", [b for b in AFTER if b.page == "pytorch_sam"], ids=name)
def test_after_trains_as_published(weights_of_block, block):
    assert_equal(weights_of_block(block, **published())[0], reference.TRAJECTORIES["sam/weights"][-1])


@pytest.mark.only("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.peer
@pytest.mark.parametrize("block", [b for b in OLD if b.page == "pytorch_sam"], ids=name)
def test_before_trains_as_published(weights_of_block, block):
    assert_equal(weights_of_block(block, **published())[0], reference.TRAJECTORIES["sam/weights"][-1])
