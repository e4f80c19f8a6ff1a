"""The SAM optimizers, one algorithm a file."""

from keras_sam.optimizers.asam import ASAMOptimizer
from keras_sam.optimizers.bayesian_sam import BayesianSAMOptimizer
from keras_sam.optimizers.friendly_sam import FriendlySAMOptimizer
from keras_sam.optimizers.gsam import GSAMOptimizer
from keras_sam.optimizers.looksam import LookSAMOptimizer
from keras_sam.optimizers.msam import MSAMOptimizer
from keras_sam.optimizers.rho_schedule import RhoSchedule
from keras_sam.optimizers.rho_warmup import RhoWarmup
from keras_sam.optimizers.sam import SAMOptimizer
from keras_sam.optimizers.spectral_sam import SpectralSAMOptimizer
from keras_sam.optimizers.vasso import VaSSOOptimizer
from keras_sam.optimizers.wsam import WSAMOptimizer

__all__ = [
    "ASAMOptimizer",
    "BayesianSAMOptimizer",
    "FriendlySAMOptimizer",
    "GSAMOptimizer",
    "LookSAMOptimizer",
    "MSAMOptimizer",
    "RhoSchedule",
    "RhoWarmup",
    "SAMOptimizer",
    "SpectralSAMOptimizer",
    "VaSSOOptimizer",
    "WSAMOptimizer",
]
