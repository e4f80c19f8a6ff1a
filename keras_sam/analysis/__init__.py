"""Measure and show how sharp a minimum is, for any Keras model, trained with SAM or not."""

from keras_sam.analysis.average import average_sharpness
from keras_sam.analysis.curvature_plots import plot_density, plot_layers
from keras_sam.analysis.density import spectral_density
from keras_sam.analysis.diagonal import hessian_diagonal
from keras_sam.analysis.hessian import hessian_eigenvalues
from keras_sam.analysis.landscape import interpolate, loss_landscape
from keras_sam.analysis.layers import by_layer
from keras_sam.analysis.plots import plot_landscape, plot_rho_sweep, plot_spectrum, plot_training
from keras_sam.analysis.results import (
    AverageSharpness,
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

__all__ = [
    "AverageSharpness",
    "Density",
    "Diagonal",
    "Landscape",
    "Layers",
    "RhoSweep",
    "Spectrum",
    "Trace",
    "average_sharpness",
    "by_layer",
    "hessian_diagonal",
    "hessian_eigenvalues",
    "hessian_trace",
    "interpolate",
    "loss_landscape",
    "plot_density",
    "plot_landscape",
    "plot_layers",
    "plot_rho_sweep",
    "plot_spectrum",
    "plot_training",
    "sharpness",
    "spectral_density",
]
