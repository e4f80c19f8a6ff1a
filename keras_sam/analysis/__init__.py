"""Measure and show how sharp a minimum is, for any Keras model, trained with SAM or not."""

from keras_sam.analysis.average import average_sharpness
from keras_sam.analysis.calibration import calibration
from keras_sam.analysis.connection import Connection, connect
from keras_sam.analysis.curvature_plots import plot_density, plot_layers
from keras_sam.analysis.density import spectral_density
from keras_sam.analysis.diagonal import hessian_diagonal
from keras_sam.analysis.hessian import hessian_eigenvalues
from keras_sam.analysis.landscape import interpolate, loss_landscape
from keras_sam.analysis.layers import by_layer
from keras_sam.analysis.path_landscape import PathLandscape, path_landscape
from keras_sam.analysis.path_plots import plot_connection, plot_path
from keras_sam.analysis.plots import plot_landscape, plot_rho_sweep, plot_spectrum, plot_training
from keras_sam.analysis.reliability import plot_reliability
from keras_sam.analysis.reporting.report import Report, report
from keras_sam.analysis.results import (
    AverageSharpness,
    Calibration,
    Density,
    Diagonal,
    Landscape,
    Layers,
    RhoSweep,
    Spectrum,
    Trace,
)
from keras_sam.analysis.rise import sharpness
from keras_sam.analysis.trace import hessian_trace
from keras_sam.analysis.training_path import TrainingPath

__all__ = [
    "AverageSharpness",
    "Calibration",
    "Connection",
    "Density",
    "Diagonal",
    "Landscape",
    "Layers",
    "PathLandscape",
    "Report",
    "RhoSweep",
    "Spectrum",
    "Trace",
    "TrainingPath",
    "average_sharpness",
    "by_layer",
    "calibration",
    "connect",
    "hessian_diagonal",
    "hessian_eigenvalues",
    "hessian_trace",
    "interpolate",
    "loss_landscape",
    "path_landscape",
    "plot_connection",
    "plot_density",
    "plot_landscape",
    "plot_layers",
    "plot_path",
    "plot_reliability",
    "plot_rho_sweep",
    "plot_spectrum",
    "plot_training",
    "report",
    "sharpness",
    "spectral_density",
]
