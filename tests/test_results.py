"""The results that are kept, in `benchmarks/results`: made by the scripts beside them, and as the README has them."""

import json
import re
import shlex
from pathlib import Path

import generalization
import pytest
import step_cost
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


def rows(name):
    return summary.rows((RESULTS / f"{name}.jsonl").read_text().splitlines())


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
    assert f"\n{summary.table(rows(name))}\n" in README


@pytest.mark.parametrize(
    ("file", "setting", "said"),
    [
        ("digits", (0.0, "base", 0.0), "within a point of SGD (97.6%)"),
        ("digits", (0.8, "sam", 0.5), "trains nothing (11%)"),
        ("digits", (0.8, "sam", 0.3), "reaches 86%"),
        ("digits", (0.8, "base", 0.0), "SGD 43%"),
        ("cifar10", (0.4, "sam", 0.1), "30.9% against"),
        ("cifar10", (0.4, "base", 0.0), "against 29.5%"),
    ],
)
def test_figures_in_the_readmes_sentences(file, setting, said):
    assert said in re.sub(r"\s+", " ", README)
    (figure,) = re.findall(r"[\d.]+(?=%)", said)
    (row,) = [row for row in rows(file) if (row.noise, row.optimizer, row.rho) == setting]
    assert f"{row.mean:.{len(figure.partition('.')[2])}f}" == figure


def test_cheap_modes_keep_nearly_all_of_the_gain_on_digits():
    top = {name: row.mean for (_, name), row in summary.best(rows("digits_rho")).items()}
    for name in ("msam", "sam_quarter"):
        assert top[name] - top["base"] >= 0.95 * (top["sam"] - top["base"])


def test_with_right_labels_all_are_close_to_sgd():
    for file, points in (("digits", 1.0), ("cifar10", 2.0)):
        found = {name: row.mean for (noise, name), row in summary.best(rows(file)).items() if noise == 0}
        assert {name for name in found if abs(found[name] - found["base"]) > points} <= {"looksam"}


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
def test_costs_are_of_one_core_and_of_every_algorithm(backend):
    file = json.loads((RESULTS / f"step_cost_{backend}.json").read_text())
    assert (file["backend"], file["cores"]) == (backend, "one core")
    for costs in file["results"].values():
        assert list(costs)[: len(step_cost.NAMES)] == step_cost.NAMES
