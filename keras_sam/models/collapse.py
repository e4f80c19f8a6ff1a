"""The collapse: a network that does no more than guess, because its radius is too large."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.models.batches import Batches

EPOCHS = 3  # that the loss must have stayed where it is
SAMPLES = 256
NOTHING, LEARNED = 5e-4, 0.05  # gains of looking


class CollapseWarning(keras.callbacks.Callback):
    """Warns once, if the model does no more than guess after some epochs in which the radius was above 0.

    It looks at the data only if the losses of three epochs are within 1% of each other and at least 90% of that of the
    first: a few samples then show whether the model's answers have anything to do with them.

    Args:
        data: What `fit` was given: `x`, and `y` if that is arrays.
    """

    def __init__(self, *data: Any) -> None:
        super().__init__()
        self.data = data
        self.losses: list[float] = []
        self.climbing = 0  # epochs
        self.done = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss, and then perhaps at some data."""
        if self.done or "loss" not in (logs or {}):
            return
        self.losses.append(float(logs["loss"]))  # type: ignore[index]
        self.climbing = self.climbing + 1 if self._radius() > 0 else 0
        if self.climbing < EPOCHS or not stays(self.losses):
            return
        gain = gain_of_looking(self.model, *self.data)
        collapsed = gain is not None and gain < NOTHING
        self.done = gain is None or collapsed or gain > LEARNED  # between them it may still begin to learn
        if collapsed:
            rho = self.model.optimizer.rho
            rho = getattr(rho, "rho", rho)
            warnings.warn(
                f"After {self.climbing} epochs with a radius above 0 the loss ({self.losses[-1]:.4g}) is that of "
                "guessing: what the model answers does not depend on the samples. `rho` is too large for it, above all "
                f"at the start of the training. Try a smaller one, or lead up to it: `rho=keras_sam.RhoWarmup({rho!r}, "
                f"warmup=0.5)`. Received: rho={self.model.optimizer.rho!r}",
                stacklevel=2,
            )

    def _radius(self) -> float:
        """Of the step before."""
        optimizer = self.model.optimizer  # on JAX this brings the iterations up to date
        rho = optimizer.rho
        return rho if isinstance(rho, float) else float(optimizer.radius_at(int(optimizer.iterations.numpy()) - 1))


def stays(losses: list[float]) -> bool:
    """Whether the loss has stayed for some epochs where it was, and not much below where it began."""
    last = losses[-EPOCHS:]
    return max(last) - min(last) <= 0.01 * abs(max(last)) and last[-1] >= 0.9 * losses[0]


def only_guesses(model: Any, x: Any, y: Any = None) -> bool | None:
    """Whether the model answers the same to whatever it is given; `None` if that cannot be told."""
    gain = gain_of_looking(model, x, y)
    return None if gain is None else gain < NOTHING


def gain_of_looking(model: Any, x: Any, y: Any = None) -> float | None:
    """How much lower the loss is for the model's answers than for the same answers to other samples, as a share of it.

    It is 0 for a model that answers the same to whatever it is given. Nothing of the model changes.

    Args:
        model: A compiled and built model.
        x: Data, as `fit` takes them.
        y: Targets, if `x` is arrays.

    Returns:
        `None` if that cannot be told: data that can be gone through once only, or a loss without targets.
    """
    try:
        x, y, sample_weight = _some(x, y)
        size = int(keras.tree.flatten(y)[0].shape[0])
        with keras.StatelessScope():
            answers = model(x, training=False)

            def loss(order: np.ndarray) -> float:
                targets = keras.tree.map_structure(lambda leaf: ops.take(leaf, order, axis=0), y)
                found = model.compute_loss(x, targets, answers, sample_weight, training=False)
                return float(ops.convert_to_numpy(found))

            places = np.arange(size)
            own, one = loss(places), loss(np.zeros_like(places))
            others = np.mean([loss(np.roll(places, shift)) for shift in range(1, size, max(1, size // 8))])
    except Exception:  # of which there are as many kinds as of models; none must end a training
        return None
    return None if own == one or not own else float((others - own) / abs(own))


def _some(x: Any, y: Any) -> Any:
    """Some samples, from all over the arrays, with their targets and weights; or the first batch of a data set."""
    if y is None:
        batch, _ = next(iter(Batches(x)))
        return batch
    size = len(keras.tree.flatten(y)[0])
    places = np.linspace(0, size - 1, min(size, SAMPLES)).astype(int)
    batch, _ = next(iter(Batches(_at(x, places), _at(y, places), SAMPLES)))
    return batch


def _at(part: Any, places: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda leaf: np.asarray(ops.convert_to_numpy(leaf))[places], part)
