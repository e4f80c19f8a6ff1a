"""Keras models whose training step gives a SAM optimizer its two gradients."""

from keras_sam.models.as_plain_model import as_plain_model
from keras_sam.models.as_sam_model import as_sam_model
from keras_sam.models.posterior import posterior_predict, posterior_sample
from keras_sam.models.sam_model import SAMModel
from keras_sam.models.train_step import sam_train_step

__all__ = ["SAMModel", "as_plain_model", "as_sam_model", "posterior_predict", "posterior_sample", "sam_train_step"]
