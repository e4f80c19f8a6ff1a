"""A sweep of the radius: a short training with each, from the same weights."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import RhoSweep
from keras_sam.models.collapse import only_guesses
from keras_sam.optimizers import RhoWarmup, SAMOptimizer, arguments

FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the optimizer's radius


def find_rho(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    rhos: Sequence[float] | None = None,
    epochs: int = 5,
    monitor: str = "val_loss",
    mode: str = "auto",
    path: str | Path | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
    **fit_options: Any,
) -> RhoSweep:
    """Train with one radius after the other, each time from the weights as they are, and compare.

    It costs `len(rhos) * epochs` epochs of `fit`. The model comes out as it went in: weights, optimizer, metrics,
    random states and compiled steps, also if the sweep fails or is interrupted. Every training has the same `seed` for
    the global random numbers of Keras, NumPy and Python, as `keras.utils.set_random_seed` sets them.

    What a few epochs can tell is which radius is too large, and which learns fastest. What SAM is for shows later,
    above all with wrong labels: sweep with as many epochs as you would train for, if you can, or take a radius at the
    upper end of those that still learn.

    Args:
        model: A `SAMModel` that is built, and compiled with a SAM optimizer whose `rho` is a float, or a `RhoWarmup` to
            a float, which keeps its times.
        x: Training data, as `fit` takes them, but no generator, as they are gone through many times.
        y: Targets, if `x` is arrays.
        rhos: Floats >= 0, the radii to try. By default 0, ¼, ½, 1, 2 and 4 times that of the optimizer; 0 is the base
            optimizer alone.
        epochs: To train with each.
        monitor: Which validation log decides, by its value in the last epoch.
        mode: `"min"` or `"max"`, or `"auto"` to know by the metric's name, as in `keras.callbacks.EarlyStopping`.
        path: A file in which finished trainings are kept. If it exists, the sweep goes on where it stopped.
        seed: Of each training.
        verbose: 1 for a progress bar over the epochs, 0 for none, `"auto"` for a bar on a terminal.
        **fit_options: More arguments of `fit`; `validation_data` or `validation_split` must be among them.

    Returns:
        A `RhoSweep`: the figures of all, and a recommended `rho` with its reason.

    Raises:
        ValueError: if an argument is out of its range, the model is not built, there are no data for validation, or
            `path` is of another sweep.
        TypeError: if the model is not compiled with a SAM optimizer, or its `rho` is another schedule.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(64, 4)).astype("float32")
        >>> y = x[:, :1] * x[:, 1:2]
        >>> model = keras_sam.as_sam_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> model.compile(keras_sam.SAMOptimizer("adam", rho=0.05), loss="mse")
        >>> sweep = keras_sam.find_rho(model, x, y, rhos=[0.0, 0.05, 0.1], epochs=2, validation_split=0.25, verbose=0)
        >>> sweep.validation.shape  # radii, epochs
        (3, 2)
        >>> sweep.rho in (0.0, 0.05, 0.1)
        True
    """
    optimizer = _checked(model, x, fit_options)
    radii = _radii(optimizer, rhos)
    epochs = arguments.positive_integer("epochs", epochs)
    with _unchanged(model) as start:
        file = _File(path, {"start": _fingerprint(model), "epochs": epochs, "seed": seed, "monitor": monitor})
        progress = Progress(len(radii) * epochs, "epoch", verbose)
        for rho in radii:
            if file.has(rho):
                for _ in range(epochs):
                    progress.step()
                continue
            start.restore()
            optimizer._rho = _with_radius(optimizer.rho, rho)
            logs = _fit(model, progress, seed, {"x": x, "y": y, "epochs": epochs} | fit_options)
            if monitor not in logs:
                raise ValueError(f"`monitor` must be one of {sorted(logs)}. Received: monitor={monitor!r}")
            train = logs.get(monitor.removeprefix("val_"), logs["loss"])
            collapsed = not np.isfinite(logs["loss"][-1]) or bool(only_guesses(model, x, y))
            file.add(rho, {"train": train, "validation": logs[monitor], "collapsed": collapsed})
        largest = _is_max(model, monitor, mode)
    return _result(radii, [file.runs[repr(rho)] for rho in radii], monitor, largest)


def _checked(model: Any, x: Any, fit_options: dict[str, Any]) -> SAMOptimizer:
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, SAMOptimizer):
        raise TypeError(
            "`model` must be compiled with a SAM optimizer, whose `rho` is to be found. Received: "
            f"optimizer={optimizer!r}"
        )
    if not model.built:
        raise ValueError(f"`model` must be built, to begin from its weights: call it on data once. Received: {model!r}")
    if isinstance(x, Iterator):
        raise ValueError(f"`x` is gone through many times, which a generator cannot. Received: x={x!r}")
    if not fit_options.get("validation_split") and fit_options.get("validation_data") is None:
        raise ValueError(
            "There must be data for validation, by which the radii are compared: pass `validation_data` or "
            f"`validation_split`. Received: {sorted(fit_options)}"
        )
    return optimizer


def _radii(optimizer: SAMOptimizer, rhos: Sequence[float] | None) -> list[float]:
    rho: Any = optimizer.rho
    middle = rho.rho if isinstance(rho, RhoWarmup) else rho
    if not isinstance(middle, float):
        raise TypeError(f"The optimizer's `rho` must be a float, or a RhoWarmup to a float. Received: rho={rho!r}")
    if rhos is None and not middle:
        raise ValueError("`rhos` must be given if the optimizer's own radius is 0. Received: rhos=None")
    found = [factor * middle for factor in FACTORS] if rhos is None else list(rhos)
    return sorted({arguments.number("rhos", each, lambda value: value >= 0, "floats >= 0") for each in found})


def _with_radius(rho: Any, radius: float) -> Any:
    return RhoWarmup(radius, rho.warmup, rho.begin, rho.end) if isinstance(rho, RhoWarmup) else radius


def _fit(model: Any, progress: Progress, seed: int, options: dict[str, Any]) -> dict[str, list[float]]:
    """The logs of a training, in which the steps are compiled for the radius that the optimizer has."""
    model.train_function = model._compiled_steps = None
    given = options.pop("callbacks", None) or []
    keras.utils.set_random_seed(seed)
    own = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: keras.utils.set_random_seed(seed),  # the first training has built metrics meanwhile
        on_epoch_end=lambda epoch, logs: progress.step(),
    )
    callbacks = [*(given if isinstance(given, (list, tuple)) else [given]), own]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "After .* epochs with a radius above 0")  # here it is a finding
        history = model.fit(callbacks=callbacks, verbose=0, **options)
    return {name: [float(value) for value in values] for name, values in history.history.items()}


class _Start:
    """The state from which each training begins."""

    def __init__(self, model: Any) -> None:
        every = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self.variables = list({id(v): v for v in every}.values())
        self.values = [np.array(ops.convert_to_numpy(v)) for v in self.variables]

    def restore(self) -> None:
        """Put it back."""
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _unchanged(model: Any) -> Iterator[_Start]:
    """Let the model be as it was afterwards."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    names = {model: ("train_function", "_compiled_steps", "stop_training"), optimizer: ("_rho", "_training")}
    before = {each: {name: getattr(each, name) for name in of_it} for each, of_it in names.items()}
    history = vars(model).get("history")
    start = _Start(model)
    try:
        yield start
    finally:
        model.reset_metrics()  # of which the first training may have created some
        start.restore()
        for each, values in before.items():
            for name, value in values.items():
                setattr(each, name, value)
        model.history = history


class _File:
    """The finished trainings, in memory and in a file."""

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = None if path is None else Path(path), settings
        self.runs: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            found = json.loads(self.path.read_text())
            if found["settings"] != settings:
                raise ValueError(
                    f"`path` must be of the same sweep, or not exist: {path} is of {found['settings']}. "
                    f"Received: {settings}"
                )
            self.runs = found["runs"]

    def has(self, rho: float) -> bool:
        """Whether the training with this radius is there."""
        return repr(rho) in self.runs

    def add(self, rho: float, run: dict[str, Any]) -> None:
        """Keep a training; the file is whole at any time."""
        self.runs[repr(rho)] = run
        if self.path is not None:
            beside = self.path.with_name(self.path.name + ".part")
            beside.write_text(json.dumps({"settings": self.settings, "runs": self.runs}))
            beside.replace(self.path)


def _fingerprint(model: Any) -> str:
    """What the trainings begin from: weights and optimizer."""

    def told(config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        return {key: told(value) for key, value in config.items() if key not in ("name", "rho")}

    digest = hashlib.sha256(json.dumps(told(model.optimizer.get_config()), sort_keys=True, default=str).encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()[:16]


def _is_max(model: keras.Model, monitor: str, mode: str) -> bool:
    """Whether more is better, as Keras sees it."""
    judge = keras.callbacks.EarlyStopping(monitor, mode=mode, patience=9)
    judge.set_model(model)
    judge.on_train_begin()
    for value in (0.0, 1.0):
        judge.on_epoch_end(int(value), {monitor: value})
    return bool(judge.best == 1.0)


def _result(radii: list[float], runs: list[dict[str, Any]], monitor: str, largest: bool) -> RhoSweep:
    train, validation = (_rows([run[part] for run in runs]) for part in ("train", "validation"))
    collapsed = np.array([run["collapsed"] for run in runs])
    last = np.array([run["validation"][-1] for run in runs])
    score = np.where(collapsed | np.isnan(last), -np.inf, last if largest else -last)
    best = int(np.argmax(score))
    return RhoSweep(
        np.array(radii), train, validation, collapsed, monitor, radii[best], _reason(radii, last, score, best, monitor)
    )


def _rows(rows: list[list[float]]) -> np.ndarray:
    """One row each, filled up with NaN where a callback has ended a training early."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def _reason(radii: list[float], last: np.ndarray, score: np.ndarray, best: int, monitor: str) -> str:
    fell = [f"{rho:g}" for rho, each in zip(radii, score, strict=True) if each == -np.inf]
    if len(fell) == len(radii):
        return (
            "No radius has learned anything, 0 neither if it was tried: look at the model and the learning rate first."
        )
    found = f"{monitor} is best at rho={radii[best]:g}: {last[best]:.4g}"
    if radii[best] == 0:
        found += ", so that SAM brings nothing in so many epochs"
    elif radii[0] == 0:
        found += f", where the base optimizer alone has {last[0]:.4g}"
    if best == len(radii) - 1:
        found += "; it is the largest that was tried, so try larger ones too"
    if fell:
        found += f"; with {', '.join(fell)} the training has collapsed, so that a rise is worth a try (RhoWarmup)"
    return found + "."
