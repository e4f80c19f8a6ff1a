"""What SAM brings where people would use it: every optimizer for as long as its base, over the beds of several files.

Reads what `generalization.py` wrote, and the cost of a step from the file of `bed_cost.py` beside it. A bed is data,
network, and how many labels are wrong. The passes and seconds of an optimizer are shares of those of its base.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bed_cost
import datasets
import generalization
import numpy as np

BASES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "muon": "Muon"}
WRONG = {
    "cifar10n_aggregate": 9,
    "cifar10n_random1": 18,
    "cifar10n_worse": 41,
}  # percent of the labels that people gave
KINDS = {"base": "best epoch of the base", "sam": "SAM", "sam_quarter": "SAM, a quarter's ascent", "msam": "MSAM"}


class Bed(NamedTuple):
    """What is trained, and on what."""

    dataset: str
    model: str
    train_size: int | None
    horizon: int | None
    frozen: bool
    noise: float

    def __str__(self) -> str:
        if self.horizon:
            return f"{self.horizon} hours"
        if self.model == "efficientnet":
            return f"{self.train_size:,}, {'last layer' if self.frozen else 'all layers'}"
        if self.dataset in WRONG:
            return f"people, {WRONG[self.dataset]}% wrong"
        redrawn = f"{self.noise:.0%} redrawn" if self.noise else "right labels"
        return redrawn if self.model == "resnet8_half" else f"{self.dataset.replace('_', ' ')}, {redrawn}"

    @property
    def group(self) -> str:
        """What it is a part of, in the summary of all beds."""
        if self.horizon:
            return "time series"
        if self.model == "efficientnet":
            return f"fine-tuning, {'last layer' if self.frozen else 'all layers'}"
        if self.dataset in WRONG:
            return "photographs, labels by people"
        if self.dataset not in datasets.TABLES:
            return "photographs, labels redrawn" if self.model == "resnet8_half" else str(self)
        if self.dataset == "iris":  # where the radius of the tables is too large, and the error near 0 without it
            return "iris, a table of 4 columns"
        if self.dataset == "diabetes":
            return "tables, a number"
        return "tables, classes, " + str(self).split(", ")[1]


class Contender(NamedTuple):
    """How it is trained."""

    base: str
    optimizer: str
    rho: float
    begin: float
    stopped: bool
    drawn: bool = False

    def __str__(self) -> str:
        if self.optimizer == "base":
            return BASES[self.base] + (", best epoch by right labels" if self.stopped else "")
        late = f" in the last {1 - self.begin:.0%}" if self.begin else ""
        drawn = ", mean of ten draws" if self.drawn else ""
        return f"{generalization.title(self.optimizer)}, rho={self.rho:g}{late}{drawn}"

    @property
    def whole_base(self) -> "Contender":
        """Its base optimizer alone, to the end."""
        return Contender(self.base, "base", 0.0, 0.0, False)


class Runs(NamedTuple):
    """Results by seed, and the cost of a step that climbs over that of the base."""

    results: dict[int, dict[str, Any]]
    step: float

    @property
    def are_accuracies(self) -> bool:
        """Or else mean squared errors."""
        return "test_accuracy" in self.results[0]

    @property
    def errors(self) -> np.ndarray:
        """On the test data, in percent where labels are wrong or right, in order of the seeds."""
        of_seed = [self.results[seed] for seed in sorted(self.results)]
        return np.array([100 - 100 * r["test_accuracy"] if self.are_accuracies else r["test_loss"] for r in of_seed])


Beds = dict[Bed, dict[Contender, Runs]]


def read(file: Path) -> Beds:
    """All that a file says."""
    beds: Beds = {}
    costs = json.loads(file.with_name(f"cost_{file.stem}.json").read_text())["results"]
    for line in file.read_text().splitlines():
        record = json.loads(line)
        run = record["run"]
        what = (run["dataset"], run["model"], run["train_size"], run.get("horizon"))
        bed = Bed(*what, run.get("frozen", False), run["label_noise"])
        how = (run.get("base", "sgd"), run["optimizer"], run["rho"], run.get("begin", 0.0), "validation" in run)
        step = costs[bed_cost.bed(run)][run["optimizer"]]["ratio"]
        results = {Contender(*how): record["result"]}
        if "posterior" in record["result"]:
            results[Contender(*how, drawn=True)] = record["result"] | record["result"]["posterior"]
        for contender, result in results.items():
            beds.setdefault(bed, {}).setdefault(contender, Runs({}, step)).results[run["seed"]] = result
    return beds


def spent(contenders: Mapping[Contender, Runs], contender: Contender) -> tuple[float, float]:
    """Gradient passes and seconds, both over those of the base."""
    runs, base = contenders[contender], contenders[contender.whole_base]
    shares = [runs.results[0][key] / base.results[0][key] for key in ("gradient_passes", "epochs_trained")]
    return shares[0], shares[1] * (1 + (runs.step - 1) * (1 - contender.begin))


def gain(pairs: Iterable[tuple[Runs, Runs]]) -> tuple[float, float]:
    """How many percent of the base's errors are gone, in all beds together, with the standard error over seeds.

    Each pair has the runs of a contender and of its base, with the same seeds.
    """
    own, base = (sum(runs.errors for runs in side) for side in zip(*pairs, strict=True))
    ratio = own.mean() / base.mean()
    spread = np.std(own - ratio * base, ddof=1) / base.mean() / np.sqrt(len(base)) if len(base) > 1 else np.nan
    return 100 * (1 - ratio), 100 * float(spread)


def cell_of_test(runs: Runs) -> str:
    """Accuracy, with that on the given labels in brackets; or the mean squared error."""
    if not runs.are_accuracies:
        return _mean(runs.errors, ".3f")
    return f"{_mean(100 - runs.errors)} ({100 * _each(runs, 'train_accuracy').mean():.0f})"


def cell_of_calibration(runs: Runs) -> str:
    """Expected calibration error in percent, and log-likelihood."""
    return f"{_mean(100 * _each(runs, 'calibration_error'))}; {-_each(runs, 'test_loss').mean():.2f}"


def cell_of_quantization(runs: Runs) -> str:
    """What int8 and int4 weights change: points of accuracy, or percent of the error."""
    cells = []
    for mode in ("int8", "int4"):
        after = runs._replace(results={seed: each["quantized"][mode] for seed, each in runs.results.items()})
        change = runs.errors - after.errors if runs.are_accuracies else 100 * (after.errors / runs.errors - 1)
        cells.append(_mean(change, "+.1f") + ("" if runs.are_accuracies else "%"))
    return "; ".join(cells)


def _each(runs: Runs, name: str) -> np.ndarray:
    return np.array([result[name] for result in runs.results.values()])


def _mean(values: np.ndarray, form: str = ".1f") -> str:
    """With its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():{form}} ± {error:{form.lstrip('+')}}"


def table(beds: Beds, cell: Callable[[Runs], str]) -> str:
    """A column for each bed, a row for each way to train, with the most that it spends on any of them."""
    rows: dict[Contender, dict[Bed, str]] = {}
    spending: dict[Contender, list[tuple[float, float]]] = {}
    for bed, contenders in beds.items():
        for contender, runs in contenders.items():
            rows.setdefault(contender, {})[bed] = cell(runs)
            spending.setdefault(contender, []).append(spent(contenders, contender))
    several = len({contender.base for contender in rows}) > 1
    lines = [
        "| optimizer | passes | seconds | " + " | ".join(map(str, beds)) + " |",
        "| --- " * (3 + len(beds)) + "|",
    ]
    for contender, cells in rows.items():
        prefix = f"{BASES[contender.base]}: " if several and contender.optimizer != "base" else ""
        passes, seconds = np.max(spending[contender], axis=0)
        shown = " | ".join(cells.get(bed, "") for bed in beds)
        lines.append(f"| {prefix}{contender} | {passes:.2f} | {seconds:.2f} | {shown} |")
    return "\n".join(lines)


CELLS: dict[Callable[[Runs], str], str] = {  # and what a result must have for it
    cell_of_test: "test_loss",
    cell_of_calibration: "calibration_error",
    cell_of_quantization: "quantized",
}


def tables(beds: Beds) -> list[tuple[str, str]]:
    """All tables of a file, with what is in their cells: some for each network."""
    found = []
    for model, (cell, needed) in itertools.product(dict.fromkeys(bed.model for bed in beds), CELLS.items()):
        part = {bed: runs for bed, runs in beds.items() if bed.model == model and needed in _first(runs).results[0]}
        if part:
            found.append((f"{model}: {(cell.__doc__ or '').strip()}", table(part, cell)))
    return found


def _first(contenders: Mapping[Contender, Runs]) -> Runs:
    return next(iter(contenders.values()))


class Summed(NamedTuple):
    """A line of the summary: the base's own figure, and what each kind of contender gains."""

    figure: str
    gains: dict[str, tuple[float, float]]


def summary(beds: Beds) -> dict[str, Summed]:
    """What is gained over the base at equal time, by groups of beds."""
    groups: dict[str, dict[str, list[tuple[Runs, Runs]]]] = {}
    for bed, contenders in beds.items():
        for contender, runs in contenders.items():
            kind, base = contender.optimizer, contender.whole_base
            if kind in KINDS and not contender.begin and contender != base:
                pairs = groups.setdefault(bed.group, {}).setdefault(KINDS[kind], [])
                pairs.append((runs, contenders[base]))
    found = {}
    for title, kinds in groups.items():
        bases = [base for _, base in max(kinds.values(), key=len)]
        errors = np.mean([base.errors for base in bases])
        figure = f"{100 - errors:.1f}%" if bases[0].are_accuracies else f"{errors:.3f}"
        found[title] = Summed(figure, {kind: gain(pairs) for kind, pairs in kinds.items()})
    return found


def summary_table(found: Mapping[str, Summed]) -> str:
    """The gains as a Markdown table."""
    lines = ["| what is trained | base | " + " | ".join(KINDS.values()) + " |", "| --- " * (2 + len(KINDS)) + "|"]
    for title, (figure, gains) in found.items():
        cells = [f"{gains[kind][0]:+.0f} ± {gains[kind][1]:.0f}" if kind in gains else "" for kind in KINDS.values()]
        lines.append(f"| {title} | {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Mapping[str, Summed], path: Path, least: float = -45.0) -> None:
    """The gains with their standard errors, a line for each group of beds; those below `least` as arrows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.42 * len(found)), dpi=110, layout="constrained")
    ax = figure.add_subplot()
    ax.axvline(0, color="black", linewidth=1)
    for index, (kind, color) in enumerate(zip(KINDS.values(), ("0.55", "C0", "C1", "C2"), strict=True)):
        lines = [
            (y + 0.19 * (index - 1.5), *each.gains[kind]) for y, each in enumerate(found.values()) if kind in each.gains
        ]
        ys, values, errors = np.transpose(lines) if lines else np.empty((3, 0))
        inside = values > least
        style = {"fmt": "osD^"[index], "color": color, "label": kind, "capsize": 2, "markersize": 5}
        ax.errorbar(values[inside], ys[inside], xerr=errors[inside], **style)
        for y, value in zip(ys[~inside], values[~inside], strict=True):
            ax.plot(least, y, "<", color=color, markersize=5)
            ax.text(least + 1, y, f"{value:.0f}", color=color, va="center", fontsize="x-small")
    for y in range(len(found) - 1):
        ax.axhline(y + 0.5, color="0.9", linewidth=0.8)
    ax.set_yticks(
        range(len(found)), [f"{title}\nbase {each.figure}" for title, each in found.items()], fontsize="small"
    )
    ax.invert_yaxis()
    ax.set(xlabel="percent of the base optimizer's test error that is gone, at equal time", xlim=(least - 2, None))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each file, and of several also the summary; write the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="what `generalization.py` wrote")
    parser.add_argument("--plot", type=Path, help="a .png file to draw the summary in")
    args = parser.parse_args(argv)
    found: dict[str, Summed] = {}
    for file in args.files:
        beds = read(file)
        for title, cells in tables(beds):
            print(f"{file.stem}, {title}\n\n{cells}\n")
        found |= summary(beds)
    print(summary_table(found))
    if args.plot is not None:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
