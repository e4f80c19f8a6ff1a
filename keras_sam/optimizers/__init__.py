"""The SAM optimizers, one algorithm a file."""

from keras_sam.optimizers.sam import SAMOptimizer

__all__ = ["SAMOptimizer"]
