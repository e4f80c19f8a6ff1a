"""Measure and show how sharp a minimum is, for any Keras model, trained with SAM or not."""

from keras_sam.analysis.calibration import calibration
from keras_sam.analysis.hessian import hessian_eigenvalues, hessian_trace
from keras_sam.analysis.landscape import interpolate, loss_landscape
from keras_sam.analysis.plots import plot_landscape, plot_rho_sweep, plot_spectrum, plot_training
from keras_sam.analysis.results import Calibration, Landscape, RhoSweep, Spectrum, Trace
from keras_sam.analysis.rise import sharpness

__all__ = [
    "Calibration",
    "Landscape",
    "RhoSweep",
    "Spectrum",
    "Trace",
    "calibration",
    "hessian_eigenvalues",
    "hessian_trace",
    "interpolate",
    "loss_landscape",
    "plot_landscape",
    "plot_rho_sweep",
    "plot_spectrum",
    "plot_training",
    "sharpness",
]
