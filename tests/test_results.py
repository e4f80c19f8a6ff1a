"""The results that are kept, in `benchmarks/results`: made by the scripts beside them, and as the pages have them."""

import json
import re
import shlex
from pathlib import Path

import generalization
import numpy as np
import pytest
import radius
import step_cost
import summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHOOSING_RHO, COST, EVIDENCE, LIMITS = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("choosing_rho", "cost", "evidence", "limits")
)
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = ("digits_rho", "digits_passes", "cifar10", "cifar10_short")  # as tables; all others as plots
TASKS = {  # of the README's table to start from, by data set
    "cifar10": "images, a convolutional network from scratch",
    "digits": "images, fully connected layers from scratch",
    "ETTh1": "time series, a transformer",
    "wine": "tables of numbers, fully connected layers",
}
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
def test_the_pages_have_what_the_summary_prints(name):
    assert f"\n{summary.table(rows(name))}\n" in EVIDENCE + LIMITS


@pytest.mark.parametrize(
    ("file", "setting", "said"),
    [
        ("digits", (0.0, "base", 0.0), "within a point of SGD (97.6%)"),
        ("digits", (0.8, "sam", 0.5), "trains nothing (11%)"),
        ("digits", (0.8, "base", 0.0), "SGD 43%"),
        ("cifar10", (0.4, "sam", 0.1), "30.9% against"),
        ("cifar10", (0.4, "base", 0.0), "against 29.5%"),
    ],
)
def test_figures_in_sentences_on_limits(file, setting, said):
    assert said in re.sub(r"\s+", " ", LIMITS)
    (figure,) = re.findall(r"[\d.]+(?=%)", said)
    (row,) = [row for row in rows(file) if (row.noise, row.optimizer, row.rho) == setting]
    assert f"{row.mean:.{len(figure.partition('.')[2])}f}" == figure


def lines_on_rho():
    return [line for file in sorted(RESULTS.glob("radius_*.jsonl")) for line in file.read_text().splitlines()]


def test_the_page_on_rho_has_what_was_found():
    lines = lines_on_rho()
    everything = radius.beds(lines)
    for table in (radius.settings_table(everything), radius.times_table(everything)):
        assert f"\n{table}\n" in CHOOSING_RHO
    for sentence in (radius.warned(lines), radius.held(everything)):
        assert sentence in re.sub(r"\s+", " ", CHOOSING_RHO)
    assert f"{radius.held(everything)} [trainings measured]" in re.sub(r"\s+", " ", README)


def test_figures_in_the_sentences_of_the_page_on_rho():
    everything = radius.beds((RESULTS / "radius_digits.jsonl").read_text().splitlines())
    said = re.sub(r"\s+", " ", CHOOSING_RHO)

    def means(noise, rho, warmup, models=("mlp64", "mlp", "mlp512")):
        setting = radius.Setting("sam", rho, warmup, 0.0)
        return [found[setting].mean for bed, found in everything.items() if bed.noise == noise and bed.model in models]

    for template, values in (
        ("next to nothing with so many ({} to {}%)", means(0.8, 0.5, 0.0)),
        ("with 40% wrong labels either ({} to {}%)", means(0.4, 1.0, 0.0)),
        ("one that rises to 1 reaches {} to {}%", means(0.4, 1.0, 0.25)),
        ("it reaches {} to {}% at twice the radius", means(0.8, 1.0, 0.5, ("mlp64", "mlp"))),
    ):
        assert template.format(f"{min(values):.0f}", f"{max(values):.0f}") in said
    wide = everything[radius.Bed("digits", "mlp", 64, 0.8)]
    small = [wide[radius.Setting("sam", 0.3, warmup, 0.0)].mean for warmup in (0.0, 0.25)]
    assert "({:.1f} and {:.1f}% with 256 units in batches of 64)".format(*small) in said
    assert f"to 0.5 reaches {wide[radius.Setting('sam', 0.5, 0.25, 0.0)].mean:.0f}%" in re.sub(r"\s+", " ", LIMITS)
    behind = {}
    for bed, found in everything.items():
        fixed = radius.constant(found)
        documented = found[radius.Setting("sam", *bed.documented, 0.0)].mean
        behind[bed[1:]] = round(fixed[radius.best(fixed)].mean - documented, 1)
        twice = found[radius.Setting("sam", 2 * bed.documented[0], bed.documented[1], 0.0)].mean
        assert (twice < 65) == (bed.noise == 0.8)
    far = {bed: points for bed, points in behind.items() if points > 1}
    assert far == {("mlp64", 256, 0.8): 3.1, ("mlp512", 64, 0.8): 2.7}
    assert "by 3.1 points with 64 units in batches of 256 and by 2.7 with 512 units in batches of 64" in said


def test_the_readme_starts_from_what_was_measured():
    documented = {bed.dataset: bed.documented for bed in radius.beds(lines_on_rho())}
    assert {rise for _, rise in documented.values()} == {0.25}
    assert "`rho=keras_sam.RhoWarmup(RADIUS, warmup=0.25)`" in README
    for dataset, task in TASKS.items():
        assert re.search(rf"^\| {task} \|.*\| {documented[dataset][0]:g} \|$", README, re.MULTILINE)


def test_what_the_readme_says_of_iris():
    lines = (json.loads(line) for line in (RESULTS / "tables.jsonl").read_text().splitlines())
    found = {}
    for run, result in ((line["run"], line["result"]) for line in lines):
        if (run["dataset"], run["model"], run["label_noise"]) == ("iris", "mlp64", 0.0) and "validation" not in run:
            found.setdefault((run["optimizer"], run["rho"]), []).append(
                [result["train_accuracy"], result["test_accuracy"]]
            )
    (base, base_test), (sam, sam_test) = (100 * np.mean(found[key], 0) for key in (("base", 0.0), ("sam", 0.5)))
    assert f"a radius of 0.5, to {sam:.0f}% from Adam's {base:.0f}%" in re.sub(r"\s+", " ", README)
    assert sam_test < base_test - 5


def test_what_the_readme_says_of_the_other_algorithms_radii():
    """Times SAM's, each at its best on the digits with 40% of the labels redrawn."""
    radii = {name: row.rho for (noise, name), row in summary.best(rows("digits")).items() if noise == 0.4}
    times = {name: round(rho / radii["sam"], 1) for name, rho in radii.items()}
    others = {"sam_every_5", "wsam", "friendly_sam", "vasso"}
    assert {name for name, factor in times.items() if factor == 1.0} == others | {"sam"}
    said = (times[name] for name in ("gsam", "looksam", "sam_quarter", "asam"))
    template = "GSAM {:g} times SAM's, LookSAM {:g}, `ascent_fraction=0.25` {:g}, ASAM {:g}"
    template += "; WSAM, Friendly SAM, VaSSO and `interval=5` SAM's"
    assert template.format(*said) in README


def test_cheap_modes_keep_nearly_all_of_the_gain_on_digits():
    top = {name: row.mean for (_, name), row in summary.best(rows("digits_rho")).items()}
    for name in ("msam", "sam_quarter"):
        assert top[name] - top["base"] >= 0.95 * (top["sam"] - top["base"])


def test_with_right_labels_all_are_close_to_sgd():
    for file, points in (("digits", 1.0), ("cifar10", 2.0)):
        found = {name: row.mean for (noise, name), row in summary.best(rows(file)).items() if noise == 0}
        assert {name for name in found if abs(found[name] - found["base"]) > points} <= {"looksam"}


def test_the_costs_are_those_measured():
    files = [json.loads((RESULTS / f"step_cost_{name}.json").read_text()) for name in ("tensorflow", "jax", "torch")]
    said = {}
    for title, names in COSTS.items():
        (row,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", COST, re.MULTILINE)
        found = iter(row.split(" | "))
        for network in ("resnet20", "transformer"):
            for file in files:
                costs = file["results"][f"{network}, batch 128"]
                known = [costs[name] for name in names if name in costs]
                shown = f"{known[0]['ratio']:.2f}" if known else "fails"
                assert next(found) == shown
                said.setdefault(title, []).append(shown)
    template = "`SAMOptimizer` {0} to {1} times, `ascent_fraction=0.25` {2} to {3}, `MSAMOptimizer` {4} to {5}"
    ranges = [f(said[title][:3]) for title in [*list(COSTS)[:2], "`MSAMOptimizer`"] for f in (min, max)]
    assert template.format(*ranges) in re.sub(r"\s+", " ", README)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_costs_are_of_one_core_and_of_every_algorithm(backend):
    file = json.loads((RESULTS / f"step_cost_{backend}.json").read_text())
    assert (file["backend"], file["cores"]) == (backend, "one core")
    for costs in file["results"].values():
        assert list(costs)[: len(step_cost.NAMES)] == step_cost.NAMES
