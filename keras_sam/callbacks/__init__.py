"""Callbacks that watch a minimum while it is found: how sharp it is, and the path to it."""

from keras_sam.callbacks.sharpness_monitor import SharpnessMonitor
from keras_sam.callbacks.weight_path import WeightPath

__all__ = ["SharpnessMonitor", "WeightPath"]
