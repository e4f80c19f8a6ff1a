"""Callbacks that watch how sharp a minimum is while it is found."""

from keras_sam.callbacks.sharpness_monitor import SharpnessMonitor

__all__ = ["SharpnessMonitor"]
