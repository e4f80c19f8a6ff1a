"""What a training step costs with each algorithm and with the peers of the backend, as a ratio to its own base.

All contenders of a network stand in one process and take turns, so that a slow moment of the machine meets them all. A
ratio is taken within each round; shown are the median over rounds and the quartiles.
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import environment
import generalization
import keras
import numpy as np
import peers
from models import NETWORKS

import keras_sam

# Without one that costs what looksam costs, and those with a base of their own.
OTHERS = ("looksam_mild", "bayesian_sam", "spectral_sam", "spectral_sam_always")
NAMES = [name for name in generalization.OPTIMIZERS if name not in OTHERS]


class Contender(NamedTuple):
    """A way to train, and what it is compared with."""

    name: str
    base: str
    step: Callable[[], Any]  # one training step, finished when it returns
    passes: float | None = None
    slots: float | None = None  # memory beyond the base optimizer's, in copies of the weights
    flops: Callable[[], float] | None = None
    cycle: int = 1  # steps after which the work is the same again
    wrong: str | None = None


def batch(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random data of the network's kind."""
    rng, shape = np.random.default_rng(0), NETWORKS[name][1]
    tokens = name == "transformer"
    x = rng.integers(0, 1000, (size, *shape)) if tokens else rng.normal(size=(size, *shape))
    return x.astype("int32" if tokens else "float32"), rng.integers(0, 10, size).astype("int32")


def ours(network: str, size: int) -> list[Contender]:
    """The base optimizer and every algorithm around it."""
    x, y = batch(network, size)
    build, shape = NETWORKS[network]
    found = []
    for name in NAMES:
        keras.utils.set_random_seed(0)
        model, optimizer = keras_sam.as_sam_model(build(shape, 10)), sgd()
        if name != "base":
            optimizer = generalization.around(optimizer, name)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        passes = getattr(optimizer, "gradient_passes", 1.0)
        own = None if name == "base" else functools.partial(slots, model)
        flops = functools.partial(step_flops, model, (x, y)) if keras.backend.backend() == "jax" else None
        step, cycle = functools.partial(model.train_on_batch, x, y), getattr(optimizer, "interval", 1)
        found.append(Contender(name, "base", step, passes, own, flops, cycle))
    return found


def sgd() -> keras.optimizers.Optimizer:
    """The base of all."""
    return keras.optimizers.SGD(0.01, momentum=0.9)


def slots(model: keras.Model) -> float:
    """The size of a SAM optimizer's own variables, in copies of the trainable weights."""
    sizes = [
        sum(int(np.prod(v.shape)) for v in variables)
        for variables in (
            model.optimizer.variables,
            model.optimizer.base_optimizer.variables,
            model.trainable_variables,
        )
    ]
    return (sizes[0] - sizes[1]) / sizes[2]


def step_flops(model: keras.Model, data: Any) -> float:
    """What XLA counts in one compiled step; of the dearer branch where a step has two."""
    import jax

    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[v.value for v in group] for group in groups]
    return float(jax.jit(model.train_step).lower(state, data).compile().cost_analysis()["flops"])


def measure(contenders: Sequence[Contender], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Time `steps` cycles of each contender in each of `rounds`; the first cycle, which compiles, apart."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    shown = 1 if sys.stdout.isatty() else 2  # on a terminal each turn, elsewhere the last only
    progress = keras.utils.Progbar((1 + rounds) * len(contenders), verbose=shown, unit_name="turn")
    for turn in range(1 + rounds):
        for contender in contenders:
            cycles = steps if turn else 1
            start = time.perf_counter()
            for _ in range(cycles * contender.cycle):
                contender.step()
            taken = time.perf_counter() - start
            seconds[contender.name].append(taken / (cycles * contender.cycle) if turn else taken)
            progress.add(1)
    result = {}
    for c in contenders:
        low, middle, high = np.percentile(np.divide(seconds[c.name][1:], seconds[c.base][1:]), [25, 50, 75])
        result[c.name] = {
            "base": c.base,
            "ratio": middle,
            "quartiles": [low, high],
            "milliseconds": 1000 * float(np.median(seconds[c.name][1:])),
            "first_cycle_seconds": seconds[c.name][0],
            "gradient_passes": c.passes,
            "slots": c.slots() if callable(c.slots) else c.slots,
            "flops": c.flops() if c.flops else None,
            "cycle": c.cycle,
            "wrong": c.wrong,
        }
    return result


def table(result: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of one network at one batch size."""
    lines = [
        "| | time over its base | quartiles | gradient passes | FLOPs over base | slots | first steps, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for name, row in result.items():
        passes, slots = ("" if row[key] is None else f"{row[key]:.3g}" for key in ("gradient_passes", "slots"))
        flops = "" if row["flops"] is None else f"{_flops(row, result[row['base']]):.2f}"
        low, high = row["quartiles"]
        spread, first = f"{low:.2f} to {high:.2f}", f"{row['first_cycle_seconds']:.1f}"
        lines.append(f"| {name} | {row['ratio']:.2f} | {spread} | {passes} | {flops} | {slots} | {first} |")
        if row["wrong"]:
            notes.append(f"\n{name}: {row['wrong']}.")
    return "\n".join(lines + notes)


def _flops(row: dict[str, Any], base: dict[str, Any]) -> float:
    """FLOPs over those of the base, on average over a cycle: one step that climbs, the others as the base's."""
    return (row["flops"] / base["flops"] + row["cycle"] - 1) / row["cycle"]


def stay_on_one_core() -> str:
    """Compute on one core, if the system lets a process choose, so that a ratio is of work, not of how it spreads."""
    if not hasattr(os, "sched_setaffinity"):
        return f"{os.cpu_count()} cores"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return "one core"


def report(made_with: dict[str, str], results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """A Markdown page of all networks and batch sizes."""
    versions = (
        f"Keras {made_with['keras']}, {made_with['backend']} {made_with['backend_version']}, "
        f"Python {made_with['python']}, {made_with['device']}"
    )
    command = f'nox -s "bench({made_with["backend"]})"'
    cores = f"{made_with['cores']}, threads: {made_with['threads']}"
    head = f"# Step cost on {made_with['backend']}\n\n{versions}, {cores}. Made by `{command}`.\n"
    return "\n".join([head, *(f"## {title}\n\n{table(result)}\n" for title, result in results.items())])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write everything to a JSON file and a Markdown page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=["resnet20", "transformer"], help="%(default)s"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[128, 32], help="%(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="%(default)s")
    parser.add_argument(
        "--steps",
        type=int,
        default=1,
        help="in each turn; five times as many where only every fifth climbs (%(default)s)",
    )
    out = Path(f"step_cost_{keras.backend.backend()}.json")
    parser.add_argument("--out", type=Path, default=out, help="%(default)s, and a .md beside it")
    args = parser.parse_args(argv)
    cores = stay_on_one_core()  # before the backend makes its threads
    threads = str(environment.one_thread_a_core())
    made_with, results = environment.describe() | {"cores": cores, "threads": threads}, {}
    for network in args.networks:
        for size in args.batch_sizes:
            title = f"{network}, batch {size}"
            print(f"\n{title}, {made_with['backend']}")
            contenders = ours(network, size)
            with ExitStack() as stack:
                for peer in peers.PEERS[made_with["backend"]](network, *batch(network, size), stack):
                    passes = 1.0 if peer.name == peer.base else 2.0
                    contenders.append(
                        Contender(peer.name, peer.base, peer.step, passes, flops=peer.flops, wrong=peer.wrong)
                    )
                results[title] = measure(contenders, args.rounds, args.steps)
            print(f"\n{table(results[title])}")
            args.out.write_text(json.dumps(made_with | {"results": results}, indent=1))
            args.out.with_suffix(".md").write_text(report(made_with, results))


if __name__ == "__main__":
    main()
