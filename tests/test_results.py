"""The results that are kept, in `benchmarks/results`: made by the scripts beside them, and as the README has them."""

import json
import re
import shlex
from pathlib import Path

import generalization
import pytest
import summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = ("digits_rho", "digits_passes", "cifar10", "cifar10_short")  # as tables; all others as plots
COSTS = {
    "`SAMOptimizer`": ["sam"],
    "`ascent_fraction=0.25`": ["sam_quarter"],
    "`interval=5`": ["sam_every_5"],
    "`LookSAMOptimizer`": ["looksam"],
    "`MSAMOptimizer`": ["msam"],
    "SAM of `tf_keras`, optax, `pytorch_optimizer`": [
        "tf_keras SharpnessAwareMinimization",
        "optax.contrib.sam",
        "pytorch_optimizer SAM",
    ],
}


@pytest.mark.parametrize("script", sorted(RESULTS.glob("*.sh")), ids=lambda script: script.name)
def test_a_script_plans_the_runs_that_are_kept_beside_it(script):
    lines = script.read_text().replace("\\\n", " ").splitlines()
    commands = [
        shlex.split(line.removesuffix('"$@"'))[2:] for line in lines if line.startswith("python generalization")
    ]
    args = [generalization.parse(command) for command in commands]
    assert {each.out.name for each in args} == {script.with_suffix(".jsonl").name}
    planned = [run for each in args for run in generalization.plan(each)]
    kept = generalization.finished(script.with_suffix(".jsonl"))
    assert sorted(map(str, kept)) == sorted(map(str, planned))


def test_every_file_of_runs_has_its_script():
    assert {path.stem for path in RESULTS.glob("*.jsonl")} == {path.stem for path in RESULTS.glob("*.sh")}


@pytest.mark.parametrize("name", SHOWN)
def test_the_readme_has_what_the_summary_prints(name):
    assert f"\n{summary.table(summary.rows((RESULTS / f'{name}.jsonl').read_text().splitlines()))}\n" in README


def test_the_readme_has_the_costs_that_were_measured():
    files = [json.loads((RESULTS / f"step_cost_{name}.json").read_text()) for name in ("tensorflow", "jax", "torch")]
    for title, names in COSTS.items():
        (row,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", README, re.MULTILINE)
        found = iter(row.split(" | "))
        for network in ("resnet20", "transformer"):
            for file in files:
                costs = file["results"][f"{network}, batch 128"]
                known = [costs[name] for name in names if name in costs]
                assert next(found) == (f"{known[0]['ratio']:.2f}" if known else "fails")


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_what_the_readme_says_of_all_costs(backend):
    """A median over rounds of ratios in each; the counts are exact."""
    file = json.loads((RESULTS / f"step_cost_{backend}.json").read_text())
    assert (file["backend"], file["cores"]) == (backend, "one core")
    for costs in file["results"].values():
        assert list(costs)[: len(generalization.OPTIMIZERS)] == list(generalization.OPTIMIZERS)
