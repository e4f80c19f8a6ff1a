"""Keep the weights while they are trained."""

import math
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.objective import flatten
from keras_sam.analysis.training_path import TrainingPath, projected
from keras_sam.optimizers import arguments


class WeightPath(keras.callbacks.Callback):
    """Keep the trainable weights at the start, every now and then, and at the end, for `path_landscape`.

    They are float32 NumPy arrays: 4 bytes times the number of weights a point. Where that is too much, `projections`
    keeps as many numbers a point instead, from which distances and angles can be told to about `1 / sqrt(projections)`;
    they show the path, but not the loss around it. Weights of SAM optimizers are kept unperturbed.

    Args:
        save_freq: `"epoch"`, or an integer >= 1, after how many batches, as in `keras.callbacks.ModelCheckpoint`.
        projections: `None` for the weights themselves, or an integer >= 2.
        seed: Of the projections. Paths with the same seed can be compared.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam.callbacks import WeightPath
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> keep = WeightPath(save_freq=2)
        >>> history = model.fit(np.ones((20, 4)), np.ones((20, 1)), batch_size=4, verbose=0, callbacks=[keep])
        >>> print(keep.path.steps, keep.path.weights.shape)
        [0 2 4 5] (4, 5)
    """

    def __init__(self, save_freq: str | int = "epoch", projections: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self._every = (
            math.inf if save_freq == "epoch" else arguments.positive_integer("save_freq", save_freq, " or 'epoch'")
        )
        if projections is not None:
            arguments.number("projections", projections, lambda n: n >= 2 and n == int(n), "an integer >= 2 or None")
        self.save_freq, self.projections, self.seed = save_freq, projections, seed
        self._begin()

    def _begin(self) -> None:
        self._kept: list[np.ndarray] = []
        self._steps: list[int] = []
        self._step = self._last_batch = 0

    @property
    def path(self) -> TrainingPath:
        """What has been kept: of all trainings of the model, if it is trained again, or up to an interrupt.

        Raises:
            ValueError: if there has been no training yet.
        """
        if not self._kept:
            raise ValueError("There is no path before a training: pass this callback to `fit` first. Received: none")
        return TrainingPath(np.stack(self._kept), np.array(self._steps, "int64"), self.projections is not None)

    def set_model(self, model: keras.Model) -> None:
        """Begin anew if it is another model."""
        if model is not self._model:
            self._begin()
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep the start."""
        self._keep()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the batches of an epoch."""
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep the weights if it is time; several batches may have been trained on since the last call."""
        self._step, self._last_batch = self._step + batch - self._last_batch, batch
        if self._step - self._steps[-1] >= self._every:
            self._keep()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights if it is time."""
        if self.save_freq == "epoch":
            self._keep()

    def on_train_end(self, logs: Any = None) -> None:
        """Keep the end."""
        self._keep()

    def _keep(self) -> None:
        if self._steps and self._steps[-1] == self._step:
            return
        variables = self.model.trainable_variables  # on JAX asking for the model brings them up to date
        size = self.projections
        values = flatten(variables) if size is None else projected(variables, int(size), self.seed)
        self._kept.append(values.astype("float32"))
        self._steps.append(self._step)
