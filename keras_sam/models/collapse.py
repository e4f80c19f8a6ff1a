"""The collapse: a network that does no more than guess, because its radius is too large."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.models.batches import Batches

MESSAGE = "After .* epochs with a radius above 0"  # how the warning begins, a regular expression
EPOCHS = 3  # that the loss must have stayed where it is
SAMPLES = 256
LEARNED = 0.05  # a gain of looking from which on a network does more than guess
LITTLE, NOTHING = 3e-3, 2e-4  # gains of one that may begin to learn yet, and of one that will not
LOOKS = 5  # epochs in which such a gain would have grown


class CollapseWarning(keras.callbacks.Callback):
    """Warns once, if the model does no more than guess after some epochs in which the radius was above 0.

    It looks at the data only if the losses of three epochs are within 1% of each other and at least 90% of that of the
    first: a few samples then show how much the model's answers have to do with them. If that is nothing, or little and
    less than before, it says so.

    Args:
        data: What `fit` was given: `x`, and `y` if that is arrays.
    """

    def __init__(self, *data: Any) -> None:
        super().__init__()
        self.data = data
        self.samples: Any = None  # the same at all looks
        self.losses: list[float] = []
        self.gains: list[float] = []
        self.climbing = 0  # epochs
        self.learned = -np.inf  # the loss at which it did more than guess
        self.done = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss, and then perhaps at some data."""
        if self.done or "loss" not in (logs or {}):
            return
        self.losses.append(float(logs["loss"]))  # type: ignore[index]
        self.climbing = self.climbing + 1 if self._radius() > 0 else 0
        if self.climbing < EPOCHS or not stays(self.losses) or self.losses[-1] < 1.01 * self.learned:
            return
        self.samples = samples_of(*self.data) if self.samples is None else self.samples
        gain = gain_of_looking(self.model, self.samples)
        if gain is None:
            self.done = True
        elif gain > LEARNED:
            self.learned, self.gains = self.losses[-1], []
        else:
            self.gains.append(gain)
            self.done = stuck(self.gains)
            if self.done:
                self._warn()

    def _warn(self) -> None:
        rho = self.model.optimizer.rho
        warnings.warn(
            f"After {self.climbing} epochs with a radius above 0 the loss ({self.losses[-1]:.4g}) is that of guessing: "
            "what the model answers does not depend on the samples. `rho` is too large for it, above all at the start "
            "of the training. Try a smaller one, or lead up to it: "
            f"`rho=keras_sam.RhoWarmup({getattr(rho, 'rho', rho)!r}, warmup=0.5)`. Received: rho={rho!r}",
            stacklevel=2,
        )

    def _radius(self) -> float:
        """Of the step before."""
        optimizer = self.model.optimizer  # on JAX this brings the iterations up to date
        if isinstance(optimizer.rho, float):
            return optimizer.rho
        iterations = int(ops.convert_to_numpy(optimizer.iterations))  # no variable where gradients are accumulated
        return float(optimizer.radius_at(max(0, iterations - 1)))


def stays(losses: list[float]) -> bool:
    """Whether the loss has stayed for some epochs where it was, and not much below where it began."""
    last = losses[-EPOCHS:]
    return max(last) - min(last) <= 0.01 * abs(max(last)) and last[-1] >= 0.9 * losses[0]


def stuck(gains: list[float]) -> bool:
    """Whether a network will not begin to learn any more, by what it gained by looking in these epochs."""
    fell = len(gains) > LOOKS and gains[-1] < min(LITTLE, 0.8 * gains[-1 - LOOKS])
    return gains[-1] < NOTHING or fell


def only_guesses(model: Any, x: Any, y: Any = None) -> bool | None:
    """Whether the model answers the same to whatever it is given; `None` if that cannot be told."""
    gain = gain_of_looking(model, samples_of(x, y))
    return None if gain is None else gain < LITTLE


def gain_of_looking(model: Any, samples: Any) -> float | None:
    """How much lower the loss is for the model's answers than for the same answers to other samples, as a share of it.

    It is 0 for a model that answers the same to whatever it is given. Nothing of the model changes.

    Args:
        model: A compiled and built model.
        samples: `(x, y, sample_weight)`.

    Returns:
        `None` if that cannot be told, as by a loss without targets.
    """
    try:
        x, y, sample_weight = samples
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


def samples_of(x: Any, y: Any = None) -> Any:
    """Some samples with their targets and weights, or `None` if the data can be gone through once only.

    From all over the arrays, or the first of a data set.
    """
    try:
        return _some(x, y)
    except Exception:  # of which there are as many kinds as of data; none must end a training
        return None


def _some(x: Any, y: Any) -> Any:
    if y is not None:
        size = len(keras.tree.flatten(y)[0])
        places = np.linspace(0, size - 1, min(size, SAMPLES)).astype(int)
        batch, _ = next(iter(Batches(_at(x, places), _at(y, places), SAMPLES)))
        return batch
    found: list[Any] = []
    count = 0
    for batch, samples in Batches(x):
        shapes = [
            [tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(each) if leaf is not None]
            for each in (batch, *found[:1])
        ]
        if shapes[0] != shapes[-1]:  # sequences of another length
            break
        found.append(batch)
        count += samples
        if count >= SAMPLES:
            break
    return keras.tree.map_structure(lambda *leaves: None if leaves[0] is None else ops.concatenate(leaves), *found)


def _at(part: Any, places: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda leaf: np.asarray(ops.convert_to_numpy(leaf))[places], part)
