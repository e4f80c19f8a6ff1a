"""What curvature costs, in gradients of the same data: a product, and a search for the largest eigenvalue.

All contenders stand in one process and take turns. A ratio to the plain gradient of the backend is taken within each
round; shown are the median over rounds and the quartiles. The search is counted in products, times the product's ratio:
the one of least effort that comes within 0.0001 of the eigenvalue.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import analysis_peers
import environment
import keras
import numpy as np
from models import NETWORKS
from step_cost import Contender, batch, measure, stay_on_one_core

from keras_sam import analysis
from keras_sam.analysis.objective import BLOCK, MATRICES, Objective
from keras_sam.models.batches import Batches

ACCURACY = 1e-4  # of an eigenvalue, relative to it


def plain_gradient(model: keras.Model, batches: Sequence[Any]) -> Callable[[], Any]:
    """The gradient of the mean loss, by the backend alone, in inference mode."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        weights = [v.value for v in model.trainable_variables]

        def run() -> None:
            for x, y in batches:
                loss = torch.nn.functional.cross_entropy(model(x, training=False), y)
                torch.autograd.grad(loss, weights)

    elif backend == "jax":
        import jax

        weights = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]

        @jax.jit
        def gradient(weights: Any, x: Any, y: Any) -> Any:
            return jax.grad(lambda w: loss_of(y, model.stateless_call(w, others, x, training=False)[0]))(weights)

        def run() -> None:
            for x, y in batches:
                jax.block_until_ready(gradient(weights, x, y))

    else:
        import tensorflow as tf

        @tf.function
        def gradient(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=False))
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        def run() -> None:
            for x, y in batches:
                gradient(x, y)

    return run


def compare(network: str, samples: int, size: int, rounds: int) -> dict[str, Any]:
    """The cost of each product, and of each search, on random data."""
    x, y = batch(network, samples)
    build, shape = NETWORKS[network]
    keras.utils.set_random_seed(0)
    model = build(shape, 10)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = y.astype("int64")
    tensors = [
        tuple(keras.ops.convert_to_tensor(part[i : i + size]) for part in (x, y)) for i in range(0, samples, size)
    ]
    vectors: dict[str, int] = {"gradient": 1}
    contenders = [Contender("gradient", "gradient", plain_gradient(model, tensors))]

    def add(name: str, matrix: str, together: int) -> None:
        objective = Objective(model, Batches(x, y, size), matrix=matrix)
        columns = np.random.default_rng(0).normal(size=(len(objective.start), together))
        contenders.append(Contender(name, "gradient", lambda: objective.products(columns)))
        vectors[name] = together

    for matrix in MATRICES:
        add(matrix, matrix, 1)
    add(f"hessian, {BLOCK} vectors together", "hessian", BLOCK)
    peers, missing = analysis_peers.available(model, tensors)
    for peer in peers:
        contenders.append(Contender(peer.name, "gradient", peer.product))
        vectors[peer.name] = 1
    measured = measure(contenders, rounds, 1)
    products = {
        name: {
            "ratio": row["ratio"] / vectors[name],
            "quartiles": [each / vectors[name] for each in row["quartiles"]],
            "milliseconds": row["milliseconds"] / vectors[name],
        }
        for name, row in measured.items()
    }

    def ours(effort: int) -> tuple[float, int]:
        found = analysis.hessian_eigenvalues(model, x, y, k=1, batch_size=size, tolerance=10.0**-effort, verbose=0)
        return found.values[0], found.products

    exact, _ = ours(7)
    searches = {"keras_sam": _search(ours, exact, products["hessian"]["ratio"])}
    searches |= {peer.name: _search(peer.eigenvalue, exact, products[peer.name]["ratio"]) for peer in peers}
    return {"products": products, "searches": searches, "missing": missing}


def _search(eigenvalue: Callable[[int], tuple[float, int]], exact: float, ratio: float) -> dict[str, float]:
    for effort in range(1, 9):
        value, products = eigenvalue(effort)
        error = float(abs(value / exact - 1))
        if error < ACCURACY:
            break
    return {"products": products, "gradients": products * ratio, "value": float(value), "error": error}


def table(result: dict[str, Any]) -> str:
    """Two Markdown tables: of products, and of searches."""
    lines = ["| product | in gradients | quartiles | milliseconds |", "| --- | --- | --- | --- |"]
    for name, row in result["products"].items():
        low, high = row["quartiles"]
        lines.append(f"| {name} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} | {row['milliseconds']:.1f} |")
    lines += ["", "| largest eigenvalue | products | in gradients | relative error |", "| --- | --- | --- | --- |"]
    for name, row in result["searches"].items():
        lines.append(f"| {name} | {row['products']} | {row['gradients']:.0f} | {row['error']:.1e} |")
    return "\n".join(lines + [f"\n{line}." for line in result["missing"]])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write everything to a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet20", help="%(default)s")
    parser.add_argument("--samples", type=int, default=2000, help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=250, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="%(default)s")
    out = Path(f"analysis_cost_{keras.backend.backend()}.json")
    parser.add_argument("--out", type=Path, default=out, help="%(default)s")
    args = parser.parse_args(argv)
    cores = stay_on_one_core()  # before the backend makes its threads
    threads = str(environment.one_thread_a_core())
    made_with = environment.describe() | {"cores": cores, "threads": threads}
    result = compare(args.network, args.samples, args.batch_size, args.rounds)
    print(f"\n{args.network}, {args.samples} samples in batches of {args.batch_size}, {made_with['backend']}\n")
    print(table(result))
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    args.out.write_text(json.dumps(made_with | settings | result, indent=1))


if __name__ == "__main__":
    main()
