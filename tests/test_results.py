"""The results that are kept, in `benchmarks/results`: made by the scripts beside them, and as the pages have them."""

import itertools
import json
import re
import shlex
from pathlib import Path

import analysis_cost
import evidence
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
BEDS = ("cifar10n", "etth1", "finetune", "tables")  # of the summary
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


@pytest.mark.parametrize("name", [*BEDS, "bayesian", "spectral"])
def test_the_page_has_the_evidence(name):
    for title, table in evidence.tables(evidence.read(RESULTS / f"{name}.jsonl")):
        assert f"\n{table}\n" in EVIDENCE, title


def evidence_sentences(found):
    sam = {title: each.gains["SAM"][0] for title, each in found.items()}
    quarter = found["photographs, labels by people"].gains["SAM, a quarter's ascent"][0]
    people, redrawn = (sam[f"photographs, labels {by}"] for by in ("by people", "redrawn"))
    return [
        f"SAM takes {people:.0f}% of SGD's error away with the labels of people, and {redrawn:.0f}% with redrawn ones",
        f"SAM takes {sam['time series']:.0f} and {sam['tables, a number']:.0f}% of Adam's error away",
        f"the ascent on a quarter of the batch takes {quarter:.0f}%",
        f"makes the error {-sam['fine-tuning, all layers']:.0f}% larger",
        f"makes the error {1 - sam['iris, a table of 4 columns'] / 100:.1f} times as large",
    ]


def test_the_summary_is_that_of_all_beds():
    files = [RESULTS / f"{name}.jsonl" for name in BEDS]
    found = {title: each for file in files for title, each in evidence.summary(evidence.read(file)).items()}
    for page in (EVIDENCE, README):
        assert f"\n{evidence.summary_table(found)}\n" in page
    for sentence in evidence_sentences(found):
        assert sentence in re.sub(r"\s+", " ", EVIDENCE)
    assert [title for title, each in found.items() if each.gains["MSAM"][0] < -0.5] == ["iris, a table of 4 columns"]


@pytest.mark.parametrize("name", [*BEDS, "spectral"])
def test_nobody_has_more_than_the_base(name):
    more = 1.15 if name == "finetune" else 1.1  # of which the page tells
    for contenders in evidence.read(RESULTS / f"{name}.jsonl").values():
        for contender in contenders:
            passes, seconds = evidence.spent(contenders, contender)
            assert passes <= 1.0
            assert round(seconds, 2) <= more


def ways(name):
    """The runs of each bed by its name and that of the way to train, without the radius."""
    return {
        (f"{bed.model}, {bed}", str(contender).split(", rho")[0] + (" drawn" if contender.drawn else "")): runs
        for bed, contenders in evidence.read(RESULTS / f"{name}.jsonl").items()
        for contender, runs in contenders.items()
    }


def test_what_the_page_says_of_the_labels_of_people():
    found = ways("cifar10n")
    for share in (9, 18, 41):
        errors = {way: runs.errors.mean() for (bed, way), runs in found.items() if f"people, {share}% wrong" in bed}
        assert min(errors, key=errors.get) == "SAM, ascent_fraction=0.25"
        assert max(errors, key=errors.get) == "SGD, best epoch by right labels"
        assert (errors["SAM"] < errors["SGD"] - 1) == (share > 9)


def test_what_the_page_says_of_time_series():
    kept = []
    for contenders in evidence.read(RESULTS / "etth1.jsonl").values():
        errors = {(way.optimizer, way.begin): runs.errors.mean() for way, runs in contenders.items()}
        base, all_along, late = (errors[key] for key in (("base", 0.0), ("sam", 0.0), ("sam", 0.7)))
        kept.append((base - late) / (base - all_along))
    assert f"leaves {100 * min(kept):.0f} to {100 * max(kept):.0f}% of the gain" in EVIDENCE


def test_what_the_page_says_of_fine_tuning():
    found = {}
    for bed, contenders in evidence.read(RESULTS / "finetune.jsonl").items():
        for way, runs in contenders.items():
            if not way.stopped:
                base = contenders[way.whole_base]
                found[way.base, way.optimizer, str(bed)] = base.errors.mean() - runs.errors.mean()
            else:
                assert runs.errors.mean() > contenders[way.whole_base].errors.mean()
    wide = ("500, all layers", "2,000, all layers")
    assert [round(found["adamw", "sam", bed]) for bed in wide] == [-3, -3]
    assert [round(found["sgd", "sam", bed]) for bed in wide] == [-1, -6]
    for base, side in (("adamw", -1), ("sgd", 1)):
        assert all(1.0 <= side * found[base, "msam", bed] <= 2.0 for bed in wide)
    ahead = {round(gained) for (_, name, bed), gained in found.items() if "last" in bed and name != "base"}
    assert ahead == {1, 2, 3}


def test_what_the_page_says_of_bayesian_sam():
    found = ways("bayesian")
    for bed, noisy in itertools.product(("mlp, digits, ", "resnet8_half, "), (False, True)):
        title = bed + ("40% redrawn" if noisy else "right labels")
        plain, bayesian, drawn = (found[title, way] for way in ("SAM", "BayesianSAM", "BayesianSAM drawn"))
        losses = [np.mean([r["test_loss"] for r in runs.results.values()]) for runs in (plain, bayesian, drawn)]
        assert losses[2] > losses[1] - 0.005
        if "resnet" in bed:
            assert bayesian.errors.mean() < plain.errors.mean()
            assert losses[1] < losses[0]
        else:
            assert bayesian.errors.mean() > plain.errors.mean()


def test_what_the_page_says_of_spectral_sam():
    found = {title: runs.errors.mean() for title, runs in ways("spectral").items()}
    spectral = "SpectralSAM"
    photographs, sentences = "resnet8_half, right labels", "text, sentences, 20% redrawn"
    assert found[photographs, spectral] < min(found[photographs, way] for way in ("Muon", "SAM")) - 1.5
    for bed in (sentences, "resnet8_half, 40% redrawn"):
        assert max(found[bed, way] for way in ("SAM", spectral)) < found[bed, "Muon"] - 4
        assert abs(found[bed, "SAM"] - found[bed, spectral]) < 1.5


def test_a_row_of_each_bed_can_be_made_again():
    text = EVIDENCE.replace("\\\n", " ")
    commands = re.findall(r"^python benchmarks/generalization.py (.*--out row.jsonl)$", text, re.MULTILINE)
    planned = [str(run) for command in commands for run in generalization.plan(generalization.parse(command.split()))]
    files = [[str(run) for run in generalization.finished(RESULTS / f"{name}.jsonl")] for name in BEDS]
    assert set(planned) <= set(itertools.chain(*files))
    assert all(set(planned) & set(kept) for kept in files)


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


@pytest.mark.parametrize("path", sorted(RESULTS.glob("analysis_cost_*.json")), ids=lambda path: path.stem)
def test_the_costs_of_curvature_are_those_measured(path):
    file = json.loads(path.read_text())
    assert file["cores"] == "one core"
    assert f"\n{analysis_cost.table(file)}\n" in COST
    options = f"--samples {file['samples']} --batch-size {file['batch_size']} --rounds {file['rounds']}"
    assert f'nox -s "bench_analysis({file["backend"]})" -- {options}\n' in COST
    of_peers = [search["gradients"] for name, search in file["searches"].items() if name != "keras_sam"]
    assert all(file["searches"]["keras_sam"]["gradients"] < 1.02 * gradients for gradients in of_peers)
