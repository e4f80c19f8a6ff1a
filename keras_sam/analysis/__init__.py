"""Measure and show how sharp a minimum is, for any Keras model, trained with SAM or not."""

from keras_sam.analysis.calibration import calibration
from keras_sam.analysis.connection import Connection, connect
from keras_sam.analysis.hessian import hessian_eigenvalues, hessian_trace
from keras_sam.analysis.landscape import interpolate, loss_landscape
from keras_sam.analysis.path_landscape import PathLandscape, path_landscape
from keras_sam.analysis.path_plots import plot_connection, plot_path
from keras_sam.analysis.plots import plot_landscape, plot_rho_sweep, plot_spectrum, plot_training
from keras_sam.analysis.reliability import plot_reliability
from keras_sam.analysis.reporting.report import Report, report
from keras_sam.analysis.results import Calibration, Landscape, RhoSweep, Spectrum, Trace
from keras_sam.analysis.rise import sharpness
from keras_sam.analysis.training_path import TrainingPath

__all__ = [
    "Calibration",
    "Connection",
    "Landscape",
    "PathLandscape",
    "Report",
    "RhoSweep",
    "Spectrum",
    "Trace",
    "TrainingPath",
    "calibration",
    "connect",
    "hessian_eigenvalues",
    "hessian_trace",
    "interpolate",
    "loss_landscape",
    "path_landscape",
    "plot_connection",
    "plot_landscape",
    "plot_path",
    "plot_reliability",
    "plot_rho_sweep",
    "plot_spectrum",
    "plot_training",
    "report",
    "sharpness",
]
