"""Measure sharpness at the end of epochs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_sam import analysis
from keras_sam.optimizers import arguments

Measure = Callable[[keras.Model, Any, Any], float]

MEASURES: dict[str, Measure] = {
    "sharpness": lambda model, x, y: analysis.sharpness(model, x, y, verbose=0),
    "top_eigenvalue": lambda model, x, y: float(analysis.hessian_eigenvalues(model, x, y, k=1, verbose=0).values[0]),
    "hessian_trace": lambda model, x, y: analysis.hessian_trace(model, x, y, verbose=0).value,
}


class SharpnessMonitor(keras.callbacks.Callback):
    """Add measures of sharpness to the logs of an epoch, each as `measured_` and its name.

    The model is not changed. Put it before callbacks that read the logs, such as `TensorBoard`; `History` and the
    progress bar come last by themselves.

    Args:
        x: Data to measure on, as in `keras_sam.analysis.sharpness`. A part of the training data will do.
        y: Targets, if `x` is arrays.
        every: Measure at the end of every `every`-th epoch, an integer >= 1; the logs of other epochs have no measures.
        measures: Names out of `"sharpness"`, `"top_eigenvalue"` and `"hessian_trace"`; or a dict of
            names and functions of `(model, x, y)` that return a float.

    Raises:
        ValueError: if `every` or a name is none of these.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam.callbacks import SharpnessMonitor
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> monitor = SharpnessMonitor(x, y, measures=["sharpness", "hessian_trace"])
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
        >>> sorted(history.history)
        ['loss', 'measured_hessian_trace', 'measured_sharpness']
    """

    def __init__(
        self, x: Any, y: Any = None, every: int = 1, measures: Sequence[str] | Mapping[str, Measure] = ("sharpness",)
    ) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.every = arguments.positive_integer("every", every)
        if not isinstance(measures, Mapping):
            unknown = [name for name in measures if name not in MEASURES]
            if unknown or isinstance(measures, str):
                raise ValueError(
                    f"`measures` must be a list of names out of {sorted(MEASURES)}, or a dict of functions. "
                    f"Received: measures={measures!r}"
                )
            measures = {name: MEASURES[name] for name in measures}
        self.measures = measures

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure, and add the figures to `logs`."""
        if (epoch + 1) % self.every == 0:
            model = self.model  # on JAX this brings the weights up to date
            for name, measure in self.measures.items():
                logs[f"measured_{name}"] = measure(model, self.x, self.y)
