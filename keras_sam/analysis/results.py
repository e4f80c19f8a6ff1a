"""What the measurements return: figures in frozen dataclasses, which can be saved and loaded."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np


class Result:
    """A dataclass of arrays and numbers."""

    def to_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def save(self, path: str | Path) -> None:
        """Write the fields to an `.npz` file."""
        np.savez(path, **self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file holds another kind of result.
        """
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if set(found) != names:
            raise ValueError(f"A {cls.__name__} has the fields {sorted(names)}. Received: {path} with {sorted(found)}")
        return cls(**{name: value.item() if value.ndim == 0 else value for name, value in found.items()})


@dataclasses.dataclass(frozen=True)
class Spectrum(Result):
    """The outermost eigenvalues of a Hessian, or of another matrix of curvature.

    Attributes:
        values: Float64 array of shape `(k,)`, the largest first; fewer if the search ended before.
        vectors: Float64 array of shape `(weights, k)`; each column is an eigenvector of norm 1.
        residuals: Float64 array of shape `(k,)`: the norm of `H v - value * v`.
        converged: Whether all `k` eigenvalues were found to the tolerance.
        products: How many products with a vector it took, each some two and a half gradients of the data.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: bool
    products: int


@dataclasses.dataclass(frozen=True)
class Trace(Result):
    """The trace of a Hessian, or of another matrix of curvature.

    Attributes:
        value: The estimate, or the exact trace if `standard_error` is 0.
        standard_error: Of the estimate.
        products: How many products with a vector it took.
    """

    value: float
    standard_error: float
    products: int


@dataclasses.dataclass(frozen=True)
class Diagonal(Result):
    """The diagonal of a Hessian, or of another matrix of curvature.

    Attributes:
        values: Float64 array of shape `(weights,)`: the estimate, or the exact diagonal if all `standard_errors` are 0.
        standard_errors: Float64 array of the same shape.
        products: How many products with a vector it took.
    """

    values: np.ndarray
    standard_errors: np.ndarray
    products: int


@dataclasses.dataclass(frozen=True)
class Density(Result):
    """The density of the eigenvalues of a Hessian, or of another matrix of curvature.

    Attributes:
        grid: Float64 array of shape `(points,)`: values that an eigenvalue may have.
        density: Float64 array of shape `(points,)`: the density there; its integral is 1.
        standard_error: Float64 array of shape `(points,)`: of the density, over the probes.
        nodes: Float64 array of shape `(probes, steps)`: the eigenvalues that each probe saw.
        weights: Float64 array of shape `(probes, steps)`: the share of all eigenvalues that each stands for.
        sigma: Standard deviation of the normal density that each is drawn as.
        products: How many products with a vector it took.
    """

    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    sigma: float
    products: int


@dataclasses.dataclass(frozen=True)
class Layers(Result):
    """One figure for each layer.

    Attributes:
        names: Array of strings of shape `(layers,)`: the layers' paths, in the order of the model.
        values: Float64 array of shape `(layers,)`.
        errors: Float64 array of shape `(layers,)`: standard errors of traces, residuals of eigenvalues, 0 for
            sharpness.
        measure: What was measured.
    """

    names: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    measure: str


@dataclasses.dataclass(frozen=True)
class AverageSharpness(Result):
    """The mean rise of the loss at random weights nearby.

    Attributes:
        value: The mean rise, in the units of the loss. It can be negative.
        standard_error: Of the mean.
        samples: At how many weights the loss was computed.
    """

    value: float
    standard_error: float
    samples: int


@dataclasses.dataclass(frozen=True)
class Landscape(Result):
    """The loss around weights, or between two sets of weights.

    Attributes:
        coordinates: Float64 array of shape `(points,)`: multiples of a direction; from one set of weights at 0 to the
            other at 1 for an interpolation.
        losses: Float64 array of shape `(points,)` or `(points, points)`; the first axis goes along the first direction.
    """

    coordinates: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calibration(Result):
    """How far the probabilities of a classifier can be believed.

    Attributes:
        expected_calibration_error: How far confidence and accuracy lie apart, on average over the bins, from 0 to 1.
            Even a calibrated model shows some, of the order of the square root of bins over samples.
        log_likelihood: Of the labels, mean over the samples, in nats.
        brier_score: Mean squared distance of the probabilities from the labels, from 0 to 2.
        accuracy: Share of the samples whose likeliest class is right.
        confidences: Float64 array of shape `(bins,)`: the mean confidence in each, the lowest first.
        accuracies: Float64 array of shape `(bins,)`: the accuracy in each.
        mass: Float64 array of shape `(bins,)`: the share of the samples' weight in each.
        samples: How many.
    """

    expected_calibration_error: float
    log_likelihood: float
    brier_score: float
    accuracy: float
    confidences: np.ndarray
    accuracies: np.ndarray
    mass: np.ndarray
    samples: int


@dataclasses.dataclass(frozen=True)
class RhoSweep(Result):
    """Short trainings with several radii.

    Attributes:
        rhos: Float64 array of shape `(radii,)`, the smallest first.
        train: Float64 array of shape `(radii, epochs)`: the log of training that belongs to `monitor`. NaN where a
            callback has ended a training before.
        validation: Float64 array of shape `(radii, epochs)`: the log `monitor`.
        collapsed: Boolean array of shape `(radii,)`: whether the model does no more than guess at the end.
        monitor: Name of the log that decides.
        rho: The recommended radius.
        reason: Why, in a sentence.
    """

    rhos: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    collapsed: np.ndarray
    monitor: str
    rho: float
    reason: str
