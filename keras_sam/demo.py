"""The main job on real data: SGD against SAM on handwritten digits, many of whose labels are wrong.

Run it with `python -m keras_sam.demo`; `--help` lists the options.
"""

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_sam
from keras_sam import analysis

# What `--optimizer` may be: the class, and the `rho` that suits it on this task.
OPTIMIZERS: dict[str, tuple[type[keras_sam.SAMOptimizer], float]] = {
    "sam": (keras_sam.SAMOptimizer, 0.5),
    "asam": (keras_sam.ASAMOptimizer, 2.0),
    "gsam": (keras_sam.GSAMOptimizer, 0.3),
    "looksam": (keras_sam.LookSAMOptimizer, 0.2),
    "wsam": (keras_sam.WSAMOptimizer, 0.5),
    "friendly_sam": (keras_sam.FriendlySAMOptimizer, 0.5),
    "vasso": (keras_sam.VaSSOOptimizer, 0.5),
    "msam": (keras_sam.MSAMOptimizer, 2.0),
}
Wrap = Callable[[keras.optimizers.Optimizer], keras_sam.SAMOptimizer]
CLASSES = 10
SHARPNESS_RHO = 0.05  # the same for all, whatever they were trained with
LANDSCAPE_POINTS = 15


class Digits(NamedTuple):
    """Images of 8x8 pixels from 0 to 1; training sees the labels `y_given`, some of them wrong, not `y_true`."""

    x_train: np.ndarray
    y_given: np.ndarray
    y_true: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Minimum(NamedTuple):
    """How sharp the loss on the training data, with the given labels, is around the weights that were found."""

    sharpness: float
    top_eigenvalue: float
    landscape: analysis.Landscape


class Run(NamedTuple):
    """What came of training one network."""

    name: str
    losses: list[float]
    train_accuracy: float
    test_accuracy: list[float]
    steps: int
    seconds: float
    minimum: Minimum


class EpochBar(keras.callbacks.Callback):
    """Keras's progress bar, with one tick an epoch; only its last state if nobody watches."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the bar and its clock."""
        self.bar = keras.utils.Progbar(
            self.params["epochs"],
            verbose=1 if sys.stdout.isatty() else 2,
            stateful_metrics=["accuracy", "loss", "val_accuracy", "val_loss"],
            unit_name="epoch",
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Move on by one."""
        self.bar.update(epoch + 1, list(logs.items()))


def load_data(noise: float, seed: int) -> Digits:
    """Split scikit-learn's digits, and redraw the share `noise` of the training labels at random."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    rng = np.random.default_rng(seed)
    redrawn = rng.choice(len(y_train), round(noise * len(y_train)), replace=False)
    y_given = y_train.copy()
    y_given[redrawn] = rng.integers(CLASSES, size=len(redrawn))
    return Digits(x_train, y_given, y_train, x_test, y_test)


def network() -> keras.Model:
    """Two hidden layers, for 64 pixels."""
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(CLASSES)])


def train(name: str, wrap: Wrap | None, data: Digits, epochs: int, seed: int) -> Run:
    """Train the network with SGD, inside the SAM optimizer that `wrap` makes of it unless that is `None`.

    The seed fixes the initial weights and the order of the batches.
    """
    keras.utils.set_random_seed(seed)
    model, optimizer = network(), keras.optimizers.SGD(0.05, momentum=0.9)
    if wrap is not None:
        model, optimizer = keras_sam.as_sam_model(model), wrap(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    print(f"\n{name}")
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_given,
        batch_size=64,
        epochs=epochs,
        validation_data=(data.x_test, data.y_test),
        validation_batch_size=len(data.x_test),
        verbose=0,
        callbacks=[EpochBar()],
    ).history
    seconds = time.perf_counter() - start
    train_accuracy = model.evaluate(data.x_train, data.y_given, verbose=0, return_dict=True)["accuracy"]
    steps, minimum = int(optimizer.iterations), measure(model, data)
    return Run(name, history["loss"], train_accuracy, history["val_accuracy"], steps, seconds, minimum)


def measure(model: keras.Model, data: Digits) -> Minimum:
    """Look at the loss around the weights of `model`, which stay as they are."""
    x, y = data.x_train, data.y_given
    options: dict[str, Any] = {"batch_size": len(x), "verbose": 0}
    spectrum = analysis.hessian_eigenvalues(model, x, y, k=1, **options)
    landscape = analysis.loss_landscape(model, x, y, dimensions=2, points=LANDSCAPE_POINTS, **options)
    rise = analysis.sharpness(model, x, y, rho=SHARPNESS_RHO, **options)
    return Minimum(rise, float(spectrum.values[0]), landscape)


def table(runs: Sequence[Run]) -> str:
    """One line a run; the first run is the base of the last column."""
    lines = [
        "              train accuracy    test accuracy                                           top",
        "              (given labels)   (clean labels)    steps   seconds   ratio   sharpness   eigenvalue",
    ]
    lines += [
        f"{run.name:<14}{run.train_accuracy:>14.1%}{run.test_accuracy[-1]:>17.1%}{run.steps:>9}"
        f"{run.seconds:>10.1f}{run.seconds / runs[0].seconds:>8.2f}"
        f"{run.minimum.sharpness:>12.4f}{run.minimum.top_eigenvalue:>13.2f}"
        for run in runs
    ]
    return "\n".join(lines)


def plot(runs: Sequence[Run], title: str, path: Path) -> None:
    """Write a PNG with the test accuracy of all runs by epoch, and the loss around each minimum."""
    from matplotlib.figure import Figure  # without pyplot it is drawn by Agg, which needs no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.5 + 4.5 * len(runs), 4.2), dpi=120, layout="constrained")
    figure.suptitle(title)
    axes, *planes = figure.subplots(1, 1 + len(runs), width_ratios=[1.2] + [1] * len(runs))
    landscapes = {f"loss around the minimum of {run.name}": run.minimum.landscape for run in runs}
    analysis.plot_landscape(landscapes, planes)
    for run in runs:
        accuracy = [100 * a for a in run.test_accuracy]
        label = f"{run.name}: {accuracy[-1]:.1f}% at the end"
        axes.plot(range(1, len(accuracy) + 1), accuracy, marker="o", markersize=3, label=label)
    axes.set(title="accuracy", xlim=(0, None), xlabel="epoch", ylabel="accuracy on clean test digits (%)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png")


def failure(run: Run, data: Digits) -> str | None:
    """Why `run` did not train, or `None` if it did."""
    if not all(map(math.isfinite, run.losses)):
        return "its loss is not finite"
    guessing = np.bincount(data.y_given).max() / len(data.y_given)
    if run.train_accuracy <= guessing:
        return f"its train accuracy of {run.train_accuracy:.1%} is no better than always naming one digit"
    return None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser("python -m keras_sam.demo", description=(__doc__ or "").split("\n")[0])
    radii = ", ".join(f"{rho} for {name}" for name, (_, rho) in OPTIMIZERS.items())
    parser.add_argument("--noise", type=float, default=0.4, help="share of train labels to redraw (%(default)s)")
    parser.add_argument("--rho", type=float, help=f"radius of the perturbation ({radii})")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (%(default)s)")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sam", help="what to compare (%(default)s)")
    parser.add_argument("--out", type=Path, default="keras_sam_demo.png", help="where the plot goes (%(default)s)")
    args = parser.parse_args(argv)
    if args.rho is None:
        args.rho = OPTIMIZERS[args.optimizer][1]
    is_png = args.out.suffix.lower() == ".png" and not args.out.is_dir() and os.access(args.out.parent, os.W_OK)
    for option, valid, what in (
        ("noise", 0 <= args.noise <= 1, "a number from 0 to 1"),
        ("rho", 0 <= args.rho < math.inf, "a finite number >= 0"),
        ("epochs", args.epochs >= 1, "an integer >= 1"),
        ("seed", 0 <= args.seed < 2**32, "an integer from 0 to 2**32 - 1"),
        ("out", is_png, "a .png file in a folder that can be written to"),
    ):
        if not valid:
            parser.error(f"argument --{option}: must be {what}. Received: {getattr(args, option)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Compare SGD with a SAM optimizer around it; returns the exit code, 0 if both runs trained."""
    args = parse(argv)
    try:
        importlib.import_module("sklearn")
        importlib.import_module("matplotlib")
    except ImportError as error:
        print(f'The demo needs scikit-learn and matplotlib: pip install "keras_sam[demo]" ({error})', file=sys.stderr)
        return 1
    if keras.backend.backend() == "torch":
        # On matrices this small, threads mostly wait for each other.
        importlib.import_module("torch").set_num_threads(1)
    data, sam_class = load_data(args.noise, args.seed), OPTIMIZERS[args.optimizer][0]
    name = sam_class.__name__.removesuffix("Optimizer")
    passes = sam_class("sgd").gradient_passes
    wrong = np.mean(data.y_given != data.y_true)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}: {len(data.y_given)} handwritten digits to train on, "
        f"{wrong:.1%} of them with a wrong label.\n{args.epochs} epochs of SGD, then of {name} with rho={args.rho:g} "
        f"around the same SGD, whose step takes {passes:g} gradient passes on average."
    )
    runs = [
        train("SGD", None, data, args.epochs, args.seed),
        train(name, lambda base: sam_class(base, rho=args.rho), data, args.epochs, args.seed),
    ]
    print(f"\n{table(runs)}\n")
    print(f"{1 - wrong:.1%} of the given labels are right: to fit more is to memorize wrong ones.")
    print("Seconds are those of `fit`, with compilation; the ratio is to SGD.")
    print(
        f"Sharpness is the rise of the train loss within {SHARPNESS_RHO} of the weights, the eigenvalue its Hessian's."
    )
    plot(runs, f"Handwritten digits with {wrong:.0%} of the train labels wrong", args.out)
    print(f"Test accuracy by epoch, and both loss landscapes: {args.out}")
    failures = [f"{run.name} did not train: {why}." for run in runs if (why := failure(run, data))]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
