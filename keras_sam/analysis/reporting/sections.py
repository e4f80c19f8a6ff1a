"""What a report consists of. A new measure is one more entry of `SECTIONS`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.average import average_sharpness
from keras_sam.analysis.calibration import calibration
from keras_sam.analysis.curvature_plots import plot_density, plot_layers
from keras_sam.analysis.density import spectral_density
from keras_sam.analysis.hessian import hessian_eigenvalues
from keras_sam.analysis.landscape import loss_landscape
from keras_sam.analysis.layers import by_layer
from keras_sam.analysis.plots import plot_landscape, plot_spectrum
from keras_sam.analysis.reliability import plot_reliability
from keras_sam.analysis.reporting.evaluation import evaluated, judges_classes
from keras_sam.analysis.rise import sharpness
from keras_sam.analysis.trace import hessian_trace
from keras_sam.models.batches import Batches


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the measures are told; see `report`."""

    rho: float
    k: int
    trace_samples: int
    span: float
    points: int
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True)
class NotMeasured:
    """What stands in place of a result, with the reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A measure as a report has it.

    Attributes:
        name: Its key in `Report.to_dict`, and its heading.
        measure: Takes model, x, y and settings, and returns a result, or `NotMeasured`.
        figures: The numbers of a result, by name.
        about: What they mean, in plain words, by name; `""` for all others.
        passes: How many gradient passes over the data a result took.
        draw: Draws results by name in a list of axes.
        together: Whether all results are drawn in the same axes.
        caption: What the picture shows.
    """

    name: str
    measure: Callable[[keras.Model, Any, Any, Settings], Any]
    figures: Callable[[Any], dict[str, Any]]
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)
    passes: Callable[[Any], int] = lambda result: 0
    draw: Callable[[Mapping[str, Any], list[Any]], Any] | None = None
    together: bool = False
    caption: str = ""


def _spectrum(model: keras.Model, x: Any, y: Any, s: Settings) -> Any:
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return hessian_eigenvalues(model, x, y, k=min(s.k, weights), batch_size=s.batch_size, seed=s.seed, verbose=0)


def _draw_layers(results: Mapping[str, Any], axes: list[Any]) -> None:
    """Each for itself, as models may have different layers."""
    widest = max(float(layers.values.max()) for layers in results.values())
    for ax, (name, layers) in zip(axes, results.items(), strict=True):
        plot_layers(layers, ax).set(title=name, xlim=(0, 1.05 * widest or 1.0))


def _calibration(model: keras.Model, x: Any, y: Any, s: Settings) -> Any:
    if not judges_classes(model):
        return NotMeasured("the model is no classifier, by its loss and metrics")
    try:
        return calibration(model, x, y, batch_size=s.batch_size)
    except ValueError as error:  # of several outputs, or of one that is not probabilities
        return NotMeasured(str(error))


SECTIONS = [
    Section(
        name="evaluation",
        measure=lambda model, x, y, s: evaluated(model, Batches(x, y, s.batch_size)),
        figures=dict,
        about={
            "loss": "what the training made small, over these data; all below is about this loss",
            "": "a metric that the model was compiled with, over these data",
        },
    ),
    Section(
        name="sharpness",
        measure=lambda model, x, y, s: sharpness(model, x, y, rho=s.rho, batch_size=s.batch_size, verbose=0),
        figures=lambda rise: {"sharpness": rise},
        about={"sharpness": "how far the loss rises within the radius rho of the weights; flat is small"},
        passes=lambda rise: 1,
    ),
    Section(
        name="average sharpness",
        measure=lambda model, x, y, s: average_sharpness(
            model, x, y, rho=s.rho, batch_size=s.batch_size, seed=s.seed, verbose=0
        ),
        figures=lambda rise: {"mean rise": rise.value, "its standard error": rise.standard_error},
        about={
            "mean rise": "how far the loss rises on average if each weight moves at random by about rho; flat is small",
            "its standard error": "how uncertain that is, as some moves were tried only",
        },
    ),
    Section(
        name="sharpness by layer",
        measure=lambda model, x, y, s: by_layer(model, x, y, rho=s.rho, batch_size=s.batch_size, verbose=0),
        figures=lambda layers: {"sharpest layer": str(layers.names[layers.values.argmax()])},
        about={"sharpest layer": "where the loss rises most, if the weights of one layer alone move by rho"},
        passes=lambda layers: 1,
        draw=_draw_layers,
        caption="How far the loss rises if the weights of one layer alone move by rho.",
    ),
    Section(
        name="curvature",
        measure=_spectrum,
        figures=lambda spectrum: {
            "top eigenvalues": spectrum.values.tolist(),
            "converged": spectrum.converged,
        },
        about={
            "top eigenvalues": "the curvature of the loss in its steepest directions; flat is small",
            "converged": "whether these were found to the tolerance",
        },
        passes=lambda spectrum: 2 * spectrum.products,
        draw=lambda results, axes: plot_spectrum(results, axes[0]),
        together=True,
        caption="The curvature of the loss in its steepest directions: the largest eigenvalues of the Hessian.",
    ),
    Section(
        name="trace",
        measure=lambda model, x, y, s: hessian_trace(
            model, x, y, samples=s.trace_samples, batch_size=s.batch_size, seed=s.seed, verbose=0
        ),
        figures=lambda trace: {"Hessian trace": trace.value, "standard error": trace.standard_error},
        about={
            "Hessian trace": "the curvature in all directions together; flat is small",
            "standard error": "of the trace, which was estimated from random directions; 0 if it is exact",
        },
        passes=lambda trace: 2 * trace.products,
    ),
    Section(
        name="density",
        measure=lambda model, x, y, s: spectral_density(model, x, y, batch_size=s.batch_size, seed=s.seed, verbose=0),
        figures=lambda density: {},
        passes=lambda density: 2 * density.products,
        draw=lambda results, axes: plot_density(results, axes[0]),
        together=True,
        caption="How many of the eigenvalues of the Hessian lie where, on a logarithmic scale: most are near 0.",
    ),
    Section(
        name="landscape",
        measure=lambda model, x, y, s: loss_landscape(
            model, x, y, span=s.span, points=s.points, dimensions=2, batch_size=s.batch_size, seed=s.seed, verbose=0
        ),
        figures=lambda plane: {},
        draw=plot_landscape,
        caption="The loss in a random plane through the weights, which are in the middle; on the same scale for all. "
        "The directions are scaled like the weights, filter by filter, so that networks can be compared.",
    ),
    Section(
        name="calibration",
        measure=_calibration,
        figures=lambda found: {
            "expected calibration error": found.expected_calibration_error,
            "log-likelihood": found.log_likelihood,
            "Brier score": found.brier_score,
        },
        about={
            "expected calibration error": "how far confidence and accuracy lie apart, on average; 0 is best",
            "log-likelihood": "mean logarithm of the probability that the right class got; 0 is best",
            "Brier score": "mean squared distance of the probabilities from the truth; 0 is best",
        },
        draw=plot_reliability,
        caption="How often the model is right, against how sure it is; both are equal on the dashed line.",
    ),
]
