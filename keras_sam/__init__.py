"""Sharpness-Aware Minimization (SAM) for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_sam.analysis.rho_sweep import find_rho
from keras_sam.models import (
    SAMModel,
    as_plain_model,
    as_sam_model,
    posterior_predict,
    posterior_sample,
    sam_train_step,
)
from keras_sam.optimizers import (
    ASAMOptimizer,
    BayesianSAMOptimizer,
    FriendlySAMOptimizer,
    GSAMOptimizer,
    LookSAMOptimizer,
    MSAMOptimizer,
    RhoSchedule,
    RhoWarmup,
    SAMOptimizer,
    SpectralSAMOptimizer,
    VaSSOOptimizer,
    WSAMOptimizer,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "ASAMOptimizer",
    "BayesianSAMOptimizer",
    "FriendlySAMOptimizer",
    "GSAMOptimizer",
    "LookSAMOptimizer",
    "MSAMOptimizer",
    "RhoSchedule",
    "RhoWarmup",
    "SAMModel",
    "SAMOptimizer",
    "SpectralSAMOptimizer",
    "VaSSOOptimizer",
    "WSAMOptimizer",
    "as_plain_model",
    "as_sam_model",
    "find_rho",
    "posterior_predict",
    "posterior_sample",
    "sam_train_step",
]
