"""All measures of one or several models, as figures and as a page."""

import dataclasses
import datetime
import importlib
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_sam.analysis.objective import NotDifferentiableError
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.reporting.evaluation import described
from keras_sam.analysis.reporting.page import page
from keras_sam.analysis.reporting.sections import SECTIONS, NotMeasured, Settings
from keras_sam.models.batches import Batches


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report` has measured.

    Attributes:
        about: Dicts of the title, the date and the number of samples; of the settings; and of the versions.
        models: What each model is: a dict, by its name.
        results: What each measure returned, such as a `Spectrum`, by the names of model and section.
        costs: Seconds and gradient passes over the data, a dict, by the same names.
    """

    about: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]
    costs: dict[str, dict[str, dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """All figures, in dicts, lists, strings and numbers, as `json.dumps` takes them."""
        models = {}
        for name, results in self.results.items():
            figures: dict[str, Any] = {"model": self.models[name]}
            for section in SECTIONS:
                result = results[section.name]
                is_none = isinstance(result, NotMeasured)
                figures[section.name] = {"not measured": result.reason} if is_none else section.figures(result)
            models[name] = figures | {"cost": self.costs[name]}
        return self.about | {"models": models}

    def save(self, path: str | Path) -> None:
        """Write the page: one HTML file, with its pictures inside, that asks nothing of other sites."""
        Path(path).write_text(page(self.to_dict(), self.results), encoding="utf-8")


def report(
    models: keras.Model | Mapping[str, keras.Model],
    x: Any,
    y: Any = None,
    title: str = "How flat the minimum is",
    rho: float = 0.05,
    k: int = 5,
    trace_samples: int = 100,
    span: float = 1.0,
    points: int = 15,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
) -> Report:
    """Measure all there is of one or several models, for a page to attach to an experiment.

    They are: loss and metrics, sharpness, its average and by layer, the largest eigenvalues, the trace and the density
    of eigenvalues of the Hessian, the landscape of the loss, and, of classifiers, calibration; with settings, versions,
    time and gradient passes. By far most of these are spent on the Hessian: some hundreds. A part of a large data set
    will do, if it is the same for all models.

    Args:
        models: A compiled and built Keras model, or several by name that answer the same task. They are not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches. For sharpness and curvature
            these are training data; calibration says more about data that the model has not seen.
        y: Targets, if `x` is arrays.
        title: Of the page.
        rho: Radius for the sharpness, as in `sharpness`.
        k: How many eigenvalues, as in `hessian_eigenvalues`.
        trace_samples: Random vectors for the trace, `samples` in `hessian_trace`.
        span: How far the landscape goes, as in `loss_landscape`.
        points: How many points it has along each direction.
        batch_size: Samples computed at a time, for arrays.
        seed: Of everything random.
        verbose: 1 for a progress bar over the measures, 0 for none, `"auto"` for a bar on a terminal.

    Returns:
        A `Report`.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if an argument is out of its range, a loss is not finite, or a model is not compiled or not built.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)], name="linear")
        >>> model.compile(loss="mse")
        >>> found = analysis.report(model, np.diag([1.0, 2.0, 3.0]), np.zeros((3, 1)), k=2, points=3)
        >>> figures = found.to_dict()["models"]["linear"]
        >>> print(np.round(figures["trace"]["Hessian trace"], 4))  # of 2/3 * diag(1, 4, 9)
        9.3333
        >>> print(figures["calibration"])
        {'not measured': 'the model is no classifier, by its loss and metrics'}
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError('`report` needs matplotlib: pip install "keras_sam[plot]"') from error
    named = models if isinstance(models, Mapping) else {models.name: models}
    if not named:
        raise ValueError(f"There must be a model at least. Received: models={models!r}")
    settings = Settings(rho, k, trace_samples, span, points, batch_size, seed)
    progress = Progress(len(named) * len(SECTIONS), "measure", verbose)
    results: dict[str, dict[str, Any]] = {name: {} for name in named}
    costs: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in named}
    for name, model in named.items():
        for section in SECTIONS:
            start = time.perf_counter()
            try:
                result = section.measure(model, x, y, settings)
            except NotDifferentiableError as error:
                result = NotMeasured(str(error))
            passes = 0 if isinstance(result, NotMeasured) else section.passes(result)
            results[name][section.name] = result
            costs[name][section.name] = {"seconds": time.perf_counter() - start, "gradient passes": passes}
            progress.step()
    about = {
        "report": {
            "title": title,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "samples": sum(samples for _, samples in Batches(x, y, batch_size)),
        },
        "settings": dataclasses.asdict(settings),
        "versions": _versions(),
    }
    return Report(about, {name: described(model) for name, model in named.items()}, results, costs)


def _versions() -> dict[str, str]:
    packages = {"keras_sam": "keras_sam", "Keras": "keras", keras.backend.backend(): keras.backend.backend()}
    packages["NumPy"] = "numpy"
    found = {title: str(importlib.import_module(name).__version__) for title, name in packages.items()}
    return found | {"Python": platform.python_version()}
