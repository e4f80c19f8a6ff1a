"""What a file of `generalization.py` says: means over seeds with their standard errors, and pictures of them.

The accuracies in brackets are those on the training labels as they were given.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import generalization
import numpy as np


class Row(NamedTuple):
    """One setting: accuracies in percent, over its seeds."""

    noise: float
    optimizer: str
    rho: float
    mean: float
    error: float
    train: float
    passes: float
    seeds: int


def rows(lines: Iterable[str]) -> list[Row]:
    """One row for each setting, in the order of the file."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        record = json.loads(line)
        run = record["run"]
        groups.setdefault((run["label_noise"], run["optimizer"], run["rho"]), []).append(record["result"])
    found = []
    for key, results in groups.items():
        test = 100 * np.array([result["test_accuracy"] for result in results])
        error = test.std(ddof=1) / np.sqrt(len(test)) if len(test) > 1 else float("nan")
        train = 100 * np.mean([result["train_accuracy"] for result in results])
        found.append(Row(*key, test.mean(), error, train, results[0]["gradient_passes"], len(results)))
    return found


def table(found: Sequence[Row]) -> str:
    """A Markdown table: a line for each optimizer at each noise, with all its radii, the best in bold."""
    lines = [
        "| labels redrawn | optimizer | gradient passes | rho: test accuracy (train accuracy), % |",
        "| --- | --- | --- | --- |",
    ]
    for (noise, name), top in best(found).items():
        radii = sorted((row for row in found if (row.noise, row.optimizer) == (noise, name)), key=lambda row: row.rho)
        cells = [f"**{_cell(row)}**" if row is top and len(radii) > 1 else _cell(row) for row in radii]
        lines.append(f"| {noise:.0%} | {generalization.title(name)} | {top.passes:g} | {', '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    radius = f"{row.rho:g}: " if row.optimizer != "base" else ""
    spread = f" ± {row.error:.1f}" if row.seeds > 1 else ""
    return f"{radius}{row.mean:.1f}{spread} ({row.train:.0f})"


def best(found: Sequence[Row]) -> dict[tuple[float, str], Row]:
    """The best radius of each optimizer at each noise; in the order of noises, then of the optimizers' list."""
    order = list(generalization.OPTIMIZERS)
    chosen: dict[tuple[float, str], Row] = {}
    for row in sorted(found, key=lambda row: (row.noise, order.index(row.optimizer))):
        key = row.noise, row.optimizer
        if key not in chosen or row.mean > chosen[key].mean:
            chosen[key] = row
    return chosen


def beside_each_other(costs: Mapping[str, float]) -> dict[str, float]:
    """Where to draw each cost, so that equal ones do not hide each other."""
    gap = max(costs.values(), default=0.0) / 60
    places = {}
    for name, cost in costs.items():
        equal = [other for other in costs if costs[other] == cost]
        places[name] = cost + gap * (equal.index(name) - (len(equal) - 1) / 2)
    return places


def plot(found: Sequence[Row], path: Path) -> None:
    """Accuracy against cost at each noise, and against noise where there are several; each at its best radius."""
    from matplotlib.figure import Figure

    chosen = best(found)
    noises = sorted({noise for noise, _ in chosen})
    names = list(dict.fromkeys(name for _, name in chosen))
    curves = len(noises) > 1
    figure = Figure(figsize=(7 * (1 + curves), 4.8), dpi=120, layout="constrained")
    cost, *more = figure.subplots(1, 1 + curves, squeeze=False)[0]
    middle = noises[len(noises) // 2]
    places = beside_each_other({name: chosen[middle, name].passes for name in names if (middle, name) in chosen})
    for index, name in enumerate(names):
        color = f"C{(index - 1) % 10}" if index else "black"  # the first is what the others are compared with
        style = {"color": color, "marker": "os^vDP*X"[index % 8], "label": generalization.title(name)}
        if name in places:
            row = chosen[middle, name]
            cost.errorbar(places[name], row.mean, row.error, linestyle="", capsize=3, **style)
        for ax in more:
            line = [chosen[noise, name] for noise in noises if (noise, name) in chosen]
            ax.errorbar(
                [100 * row.noise for row in line], [row.mean for row in line], [row.error for row in line], **style
            )
    cost.set(
        title=f"{middle:.0%} of the train labels redrawn",
        xlabel="gradient passes over the training data (side by side where equal)",
        ylabel="test accuracy (%), mean and standard error",
        xlim=(0, None),
    )
    for ax in more:
        ax.set(title="label noise", xlabel="train labels redrawn (%)", ylabel="test accuracy (%)")
    for ax in (cost, *more):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="what `generalization.py` wrote")
    parser.add_argument("--plot", type=Path, help="a .png file to draw in")
    args = parser.parse_args(argv)
    found = rows(args.file.read_text().splitlines())
    print(table(found))
    if args.plot is not None:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
