"""A sweep of the radius: a short training with each, from the same weights."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import RhoSweep
from keras_sam.analysis.trainings import Trainings, fingerprint
from keras_sam.analysis.unchanged import unchanged
from keras_sam.models.collapse import MESSAGE, only_guesses
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
    with unchanged(model) as start:
        settings = {"start": fingerprint(model), "epochs": epochs, "seed": seed, "monitor": monitor, "mode": mode}
        trainings = Trainings(path, settings)
        progress = Progress(len(radii) * epochs, "epoch", verbose)
        for rho in radii:
            if trainings.has(rho):
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
            run = {"train": train, "validation": logs[monitor], "collapsed": collapsed}
            trainings.add(rho, run | {"max": _is_max(model, monitor, mode)})
    return _result(radii, [trainings.runs[repr(rho)] for rho in radii], monitor)


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
        warnings.filterwarnings("ignore", MESSAGE)  # here it is a finding
        history = model.fit(callbacks=callbacks, verbose=0, **options)
    return {name: [float(value) for value in values] for name, values in history.history.items()}


def _is_max(model: keras.Model, monitor: str, mode: str) -> bool:
    """Whether more is better, as Keras sees it."""
    judge = keras.callbacks.EarlyStopping(monitor, mode=mode, patience=9)
    judge.set_model(model)
    judge.on_train_begin()
    for value in (0.0, 1.0):
        judge.on_epoch_end(int(value), {monitor: value})
    return bool(judge.best == 1.0)


def _result(radii: list[float], runs: list[dict[str, Any]], monitor: str) -> RhoSweep:
    train, validation = (_rows([run[part] for run in runs]) for part in ("train", "validation"))
    collapsed = np.array([run["collapsed"] for run in runs])
    last = np.array([run["validation"][-1] for run in runs])
    score = np.where(collapsed | np.isnan(last), -np.inf, last if runs[0]["max"] else -last)
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
