"""What a step of each optimizer costs in the runs of a file, as a ratio to a step of its base: networks, data and all.

Measured as in `step_cost.py`: all optimizers of a network in one process, taking turns, on one core.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import environment
import generalization
import step_cost


def bed(run: dict[str, Any]) -> str:
    """What decides the cost of a step, beside the optimizer."""
    what = [run["dataset"]] if run["dataset"] in datasets.TABLES else []  # which differ in columns
    what += [run["model"], run.get("base", "sgd")]
    what += [f"{run['horizon']} hours"] if "horizon" in run else []
    return ", ".join(what + (["frozen"] if "frozen" in run else []))


def contenders(run: dict[str, Any], names: Sequence[str], file: str | None) -> list[step_cost.Contender]:
    """A step of the run with each of these optimizers, on its first batch."""
    found = []
    for name in names:
        rho = generalization.OPTIMIZERS[name][2]
        settings = {key: value for key, value in run.items() if key not in ("warmup", "begin")}
        model, _, batches = generalization.prepared(settings | {"optimizer": name, "rho": rho}, file, epochs=1000)
        found.append(step_cost.Contender(name, "base", functools.partial(model.train_on_batch, *batches[0])))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every bed of the file and write it to another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="what `generalization.py` wrote")
    parser.add_argument("--data", help="folder of the data files, if the runs are on such")
    parser.add_argument("--rounds", type=int, default=15, help="%(default)s")
    parser.add_argument("--steps", type=int, default=10, help="in each turn (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a .json file")
    args = parser.parse_args(argv)
    cores = step_cost.stay_on_one_core()  # before the backend makes its threads
    threads = str(environment.one_thread_a_core())
    made_with, results = environment.describe() | {"cores": cores, "threads": threads}, {}
    beds: dict[str, dict[str, dict[str, Any]]] = {}
    for run in generalization.finished(args.file):
        beds.setdefault(bed(run), {}).setdefault(run["optimizer"], run)
    for title, runs in beds.items():
        run = next(iter(runs.values()))
        files = list(Path(args.data).glob(f"{run['dataset']}.*")) if args.data else [None]  # of a library
        if not files:
            parser.error(f"argument --data: must have {run['dataset']}.npz or .csv in it. Received: {args.data}")
        file = files[0] and str(files[0])
        print(title)
        result = step_cost.measure(contenders(run, list(runs), file), args.rounds, args.steps)
        results[title] = {name: {key: row[key] for key in ("ratio", "quartiles")} for name, row in result.items()}
        print({name: round(row["ratio"], 2) for name, row in results[title].items()})
        args.out.write_text(json.dumps(made_with | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
