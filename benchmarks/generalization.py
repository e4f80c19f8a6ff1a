"""Train a network with several optimizers, radii and seeds, and keep how well each generalizes.

Each finished run is a line in the file `--out`. A run that stands there already is not made again, so that an
interrupted sweep goes on where it stopped. `summary.py` shows what came out.
"""

import argparse
import functools
import importlib
import itertools
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import environment
import keras
import models
import numpy as np

import keras_sam
from keras_sam import analysis
from keras_sam.models import collapse

SAM = keras_sam.SAMOptimizer
# Name: class, options beyond rho, and the radius that suits it on the digits.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "base": (None, {}, 0.0),
    "sam": (SAM, {}, 0.5),
    "sam_quarter": (SAM, {"ascent_fraction": 0.25}, 0.7),
    "sam_every_5": (SAM, {"interval": 5}, 0.5),
    "asam": (keras_sam.ASAMOptimizer, {}, 2.0),
    "gsam": (keras_sam.GSAMOptimizer, {}, 0.3),
    "looksam": (keras_sam.LookSAMOptimizer, {}, 0.2),
    "looksam_mild": (keras_sam.LookSAMOptimizer, {"alpha": 0.1}, 0.5),
    "wsam": (keras_sam.WSAMOptimizer, {}, 0.5),
    "friendly_sam": (keras_sam.FriendlySAMOptimizer, {}, 0.5),
    "vasso": (keras_sam.VaSSOOptimizer, {}, 0.5),
    "bayesian_sam": (keras_sam.BayesianSAMOptimizer, {}, 0.05),
    "spectral_sam": (keras_sam.SpectralSAMOptimizer, {}, 0.05),
    "spectral_sam_always": (keras_sam.SpectralSAMOptimizer, {"interval": 1}, 0.05),
    "msam": (keras_sam.MSAMOptimizer, {}, 1.5),
}
BASES: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "muon": keras.optimizers.Muon,
}


def title(name: str) -> str:
    """What a reader calls the optimizer `name`."""
    algorithm, options, _ = OPTIMIZERS[name]
    if algorithm is None:
        return "SGD"
    settings = ", ".join(f"{option}={value}" for option, value in options.items())
    return algorithm.__name__.removesuffix("Optimizer") + (f", {settings}" if settings else "")


def train(run: dict[str, Any], file: str | None) -> dict[str, Any]:
    """Train one network as `run` says; returns what came out."""
    passes = 1.0 if run["optimizer"] == "base" else around("sgd", run["optimizer"]).gradient_passes
    passes -= (passes - 1.0) * run.get("begin", 0.0)
    epochs = round(run["epochs"] / passes) if run["equal"] == "passes" else run["epochs"]
    model, data, batches = prepared(run, file, epochs)
    callbacks = []
    if data.validation is not None:
        callbacks = [keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)]
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", collapse.MESSAGE)
        fit = {"epochs": epochs, "verbose": 0, "validation_data": data.validation, "callbacks": callbacks}
        history = model.fit(batches, **fit).history
    seconds = time.perf_counter() - start
    found: dict[str, Any] = tested(model, data)
    fitted = model.evaluate(data.x_train, data.y_train, batch_size=500, verbose=0, return_dict=True)
    found["train_loss"] = float(fitted["loss"])
    if data.classes:  # the train accuracy is that on the labels given
        found["train_accuracy"] = float(fitted["accuracy"])
    found |= {
        "losses": [float(f"{loss:.4g}") for loss in history["loss"]],  # by epoch, while it trained
        "told": any(re.match(collapse.MESSAGE, str(each.message)) for each in said),  # that it has collapsed
        "epochs_trained": epochs,
        "gradient_passes": passes * epochs,  # over the training data
        "seconds": round(seconds, 2),
    }
    if run["optimizer"] == "bayesian_sam" and data.classes:
        found["posterior"] = tested(*of_posterior(model, data, run["seed"]))
    if "quantize" in run:
        found["quantized"] = {mode: tested(quantized(model, mode), data) for mode in run["quantize"]}
    return found | environment.describe()


def prepared(run: dict[str, Any], file: str | None, epochs: int) -> tuple[keras.Model, datasets.Data, datasets.Batches]:
    """The compiled network of a run, with its data."""
    keras.utils.set_random_seed(run["seed"])
    asked = {name: run[name] for name in ("validation", "test_size", "horizon") if name in run}
    data = datasets.load(run["dataset"], file, run["seed"], run["label_noise"], run["train_size"], **asked)
    model = models.MODELS[run["model"]](data.x_train.shape[1:], data.target)
    if run.get("frozen"):
        model, data = head(model, data)
    batches = datasets.Batches(data, run["batch_size"], run["augment"], run["seed"])
    rate = run["learning_rate"]
    if run["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
    optimizer = BASES[run.get("base", "sgd")](rate, weight_decay=run["weight_decay"])
    if run["optimizer"] != "base":
        rise = {time: run[time] for time in ("warmup", "begin") if time in run}
        rho = keras_sam.RhoWarmup(run["rho"], **rise) if rise else run["rho"]
        model = keras_sam.as_sam_model(model)
        if run["optimizer"] == "bayesian_sam":  # which has a momentum of its own
            optimizer = keras.optimizers.SGD(rate)
        optimizer = around(optimizer, run["optimizer"], len(data.x_train), rho=rho)
    if data.classes:
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    else:
        model.compile(optimizer, "mse")
    return model, data, batches


def around(base: Any, name: str, samples: int = 1, **settings: Any) -> keras_sam.SAMOptimizer:
    """The optimizer `name` around `base`, to train on so many samples."""
    algorithm, options, _ = OPTIMIZERS[name]
    if algorithm is keras_sam.BayesianSAMOptimizer:
        options = options | {"num_data": samples}
    found: keras_sam.SAMOptimizer = algorithm(base, **options, **settings)
    return found


def head(model: keras.Model, data: datasets.Data) -> tuple[keras.Model, datasets.Data]:
    """The last layer as a network by itself, and the data as this layer sees them."""
    before = keras.Model(model.input, model.layers[-1].input)
    parts = [data.x_train, data.x_test] if data.validation is None else [data.x_train, data.x_test, data.validation[0]]
    x_train, x_test, *rest = (before.predict(x, batch_size=100, verbose=0) for x in parts)
    apart = (rest[0], data.validation[1]) if data.validation is not None else None
    last = keras.Sequential([keras.Input(x_train.shape[1:]), model.layers[-1]])
    return last, data._replace(x_train=x_train, x_test=x_test, validation=apart)


def tested(model: keras.Model, data: datasets.Data) -> dict[str, float]:
    """What the model makes of the test data: for classes the loss is the negative log-likelihood."""
    if not data.classes:
        return {"test_loss": float(model.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0))}
    found = analysis.calibration(model, data.x_test, data.y_test, batch_size=500)
    return {
        "test_loss": -found.log_likelihood,
        "test_accuracy": found.accuracy,
        "calibration_error": found.expected_calibration_error,
        "brier_score": found.brier_score,
    }


def of_posterior(model: keras.Model, data: datasets.Data, seed: int, draws: int = 10) -> Any:
    """The mean probabilities of several draws of the weights, as the data of a model that answers with what it gets."""
    generator, probabilities = keras.random.SeedGenerator(seed), np.zeros((len(data.x_test), data.classes))
    for _ in range(draws):
        with keras_sam.posterior_sample(model, generator):
            logits = model.predict(data.x_test, batch_size=500, verbose=0).astype("float64")
        odds = np.exp(logits - logits.max(1, keepdims=True))
        probabilities += odds / odds.sum(1, keepdims=True) / draws
    answer = keras.Sequential([keras.Input((data.classes,)), keras.layers.Identity()])
    return answer, data._replace(x_test=probabilities)


def quantized(model: keras.Model, mode: str) -> keras.Model:
    """A plain model whose weights have become integers, where Keras can: not those of convolutions."""
    plain = keras.models.clone_model(keras_sam.as_plain_model(model))
    plain.set_weights(model.get_weights())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
        plain.quantize(mode)
    plain.compile(loss=model.loss)
    return plain


def plan(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run that is asked for."""
    settings = {
        name: getattr(args, name)
        for name in ("model", "epochs", "equal", "batch_size", "learning_rate", "schedule", "weight_decay", "augment")
    }
    settings |= {"dataset": Path(args.data).stem if args.data else args.dataset, "train_size": args.train_size}
    settings |= {"base": args.base} if args.base != "sgd" else {}
    more = ("validation", "test_size", "horizon", "frozen", "quantize")
    settings |= {name: getattr(args, name) for name in more if getattr(args, name)}
    runs = []
    rises: list[dict[str, float]] = [{}]
    if args.warmup or args.begin:
        rises = [{"warmup": share} for share in args.warmup or ()] + [{"begin": share} for share in args.begin or ()]
    for noise, name, seed in itertools.product(args.label_noise, args.optimizers, range(args.seeds)):
        radii = [0.0] if name == "base" else (args.rho or [OPTIMIZERS[name][2]])
        each = [settings | {"label_noise": noise, "optimizer": name, "rho": rho, "seed": seed} for rho in radii]
        runs += [run | rise for run in each for rise in (rises if name != "base" else [{}])]
    return runs


def finished(path: Path) -> list[dict[str, Any]]:
    """The runs in the file, after taking a last line off it that an interrupt cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]))
    return [json.loads(line)["run"] for line in lines if line.endswith("\n")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add(
        "--dataset",
        choices=[*datasets.TABLES, "sentences", "digits", "fashion_mnist", "cifar10", "cifar100"],
        default="digits",
        help="%(default)s",
    )
    add("--data", help="an .npz file with x_train, y_train, x_test, y_test instead, or the .csv file of ETTh1")
    add("--label-noise", type=float, nargs="+", default=[0.4], help="shares of the train labels to redraw (0.4)")
    add("--train-size", type=int, help="use so many training samples only")
    add("--test-size", type=int, help="use so many test samples only")
    add(
        "--validation", type=int, help="set so many training samples apart and keep the weights of the epoch best there"
    )
    add("--horizon", type=int, help="hours of ETTh1 to forecast (96)")
    add("--model", choices=list(models.MODELS), default="mlp", help="%(default)s")
    add("--optimizers", type=_names, default=["base", "sam"], help="of " + ",".join(OPTIMIZERS) + " (base,sam)")
    add("--rho", type=float, nargs="+", help="radii; each optimizer's own for the digits if not given")
    add("--warmup", type=float, nargs="+", help="let the radius rise from 0 over these shares of the training")
    add("--begin", type=float, nargs="+", help="let the steps climb after these shares of the training only")
    add("--seeds", type=int, default=3, help="how many (%(default)s)")
    add("--epochs", type=int, default=60, help="%(default)s")
    add(
        "--equal",
        choices=["epochs", "passes"],
        default="epochs",
        help="what all optimizers get as much of (%(default)s)",
    )
    add("--base", choices=list(BASES), default="sgd", help="the base optimizer (%(default)s)")
    add("--batch-size", type=int, default=64, help="%(default)s")
    add("--learning-rate", type=float, default=0.05, help="%(default)s")
    add("--schedule", choices=["constant", "cosine"], default="cosine", help="of the learning rate (%(default)s)")
    add("--weight-decay", type=float, default=0.0, help="%(default)s")
    add("--frozen", action="store_true", help="train the head of a pre-trained network only, on what the rest computes")
    add("--quantize", nargs="+", choices=["int8", "int4"], help="test once more after `model.quantize` of each")
    add("--augment", action="store_true", help="pad and crop, and flip")
    add("--out", type=Path, default=Path("generalization.jsonl"), help="%(default)s")
    args = parser.parse_args(argv)
    if not all(0 <= noise <= 1 for noise in args.label_noise):
        parser.error(f"argument --label-noise: must be from 0 to 1. Received: {args.label_noise}")
    if not all(0 <= rho < math.inf for rho in args.rho or ()):
        parser.error(f"argument --rho: must be finite and >= 0. Received: {args.rho}")
    if min(args.seeds, args.epochs, args.batch_size, args.train_size or 1) < 1:
        parser.error("arguments --seeds, --epochs, --batch-size and --train-size: must be at least 1")
    return args


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(OPTIMIZERS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Make every run that is not in the file yet."""
    args = parse(argv)
    if keras.backend.backend() == "torch" and args.model == "mlp":
        importlib.import_module("torch").set_num_threads(1)  # on small matrices threads mostly wait for each other
    done, runs = finished(args.out), plan(args)
    for number, run in enumerate(runs, 1):
        what = f"{run['label_noise']:.0%} noise, {run['optimizer']} {run['rho']:g}, seed {run['seed']}"
        what += "".join(f", {time} {run[time]:g}" for time in ("warmup", "begin") if time in run)
        label = f"[{number}/{len(runs)}] {what}"
        if run in done:
            print(f"{label}: in the file already")
            continue
        result = train(run, args.data)
        with args.out.open("a") as file:
            file.write(json.dumps({"run": run, "result": result}) + "\n")
        test, fitted = (
            f"{result[f'{part}_accuracy']:.1%}" if f"{part}_accuracy" in result else f"{result[f'{part}_loss']:.4f}"
            for part in ("test", "train")
        )
        print(f"{label}: test {test}, train {fitted}, {result['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
