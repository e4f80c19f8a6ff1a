"""The loss of a model as a function of its outputs, for the matrices that stand between two of its Jacobians."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.backend import derivatives


class Outputs:
    """What is done with the outputs of a model, as flat lists of tensors.

    The losses that do not depend on outputs and targets, regularization among them, are no part of it.

    Args:
        model: A compiled Keras model.
        normalize_logits: Whether `normalized` changes anything.

    Raises:
        ValueError: if logits are to be normalized, and a loss takes probabilities.
    """

    def __init__(self, model: keras.Model, normalize_logits: bool) -> None:
        self.model, self.normalize_logits = model, normalize_logits
        self.structure: Any = None
        if normalize_logits:
            losses = [keras.losses.get(loss) for loss in keras.tree.flatten(model.loss) if loss is not None]
            if not all(_takes_logits(loss) for loss in losses):
                raise ValueError(
                    "`normalize_logits` needs a model that ends in logits, and a loss that takes them: "
                    "leave the softmax out and compile with `from_logits=True`. "
                    f"Received: loss={model.loss!r}"
                )

    def normalized(self, y_pred: Any) -> Any:
        """The outputs, each centred and scaled to norm 1 along its last axis, if they are to be."""
        return keras.tree.map_structure(_normalized, y_pred) if self.normalize_logits else y_pred

    def flat(self, y_pred: Any) -> list[Any]:
        """The outputs in a list, whose structure is remembered."""
        self.structure = y_pred
        return list(keras.tree.flatten(y_pred))

    def gauss_newton(self, outputs: Sequence[Any], tangents: Sequence[Any], batch: Any) -> list[Any]:
        """The Hessian of the loss in the outputs, times tangents of these."""

        def slope(at: Sequence[Any]) -> Any:
            return _dot(derivatives.gradient(lambda o: self._loss(o, batch, batch[2]))(at), tangents)

        return list(derivatives.gradient(slope)(list(outputs)))

    def fisher(self, outputs: Sequence[Any], tangents: Sequence[Any], batch: Any) -> list[Any]:
        """The mean over samples of the outer product of the gradient of a sample's loss, times tangents.

        A loss that is linear in the samples' weights `s` has the derivative in one for the share of the sample: the
        first derivative in `s` picks the samples' shares, and the gradient with these for weights adds them up.
        """
        (weights,) = self._sample_weights(outputs, batch)
        samples = ops.cast(ops.shape(weights)[0], weights.dtype)

        def slope(s: Sequence[Any]) -> Any:
            return _dot(derivatives.gradient(lambda o: self._weighted(o, batch, s[0]))(list(outputs)), tangents)

        (shares,) = derivatives.gradient(slope)([weights])
        return list(derivatives.gradient(lambda o: self._weighted(o, batch, samples * shares))(list(outputs)))

    def check_weighting(self, first: tuple[Sequence[Any], Any]) -> None:
        """Raise an error if the loss is not linear in the weights of the samples."""
        outputs, batch = first
        (ones,) = self._sample_weights(outputs, batch)
        none, once, twice = (
            float(ops.convert_to_numpy(self._weighted(outputs, batch, factor * ones))) for factor in (0.0, 1.0, 2.0)
        )
        with stateless(self.model):
            added = sum(float(ops.convert_to_numpy(loss)) for loss in self.model.losses)
        scale = 1e-4 * max(abs(once), abs(twice), 1e-6)
        if not (abs(none - added) < scale and abs(twice - 2 * once + none) < scale and np.isfinite(once)):
            raise ValueError(
                "`matrix='fisher'` needs a loss that is a sum of the samples' own, each times its `sample_weight`, as "
                "Keras's losses are by default. Use another `matrix`. "
                f"Received: model.loss={self.model.loss!r}, which gives {none:.4g}, {once:.4g} and {twice:.4g} for "
                "weights of 0, 1 and 2."
            )

    def _sample_weights(self, outputs: Sequence[Any], batch: Any) -> list[Any]:
        return [ops.ones((ops.shape(outputs[0])[0],), outputs[0].dtype)]

    def _weighted(self, outputs: Sequence[Any], batch: Any, factors: Any) -> Any:
        """The loss with the samples' weights multiplied by factors."""
        if batch[2] is None:
            return self._loss(outputs, batch, factors)

        def times(weight: Any) -> Any:
            shape = (-1,) + (1,) * (len(weight.shape) - 1)
            return ops.cast(weight, factors.dtype) * ops.reshape(factors, shape)

        return self._loss(outputs, batch, keras.tree.map_structure(times, batch[2]))

    def _loss(self, outputs: Sequence[Any], batch: Any, sample_weight: Any) -> Any:
        x, y, _ = batch
        y_pred = keras.tree.pack_sequence_as(self.structure, list(outputs))
        with stateless(self.model):
            return self.model.compute_loss(x, y, y_pred, sample_weight, training=False)


def stateless(model: keras.Model, variables: Sequence[Any] = (), weights: Sequence[Any] = ()) -> Any:
    """A scope in which the variables have these weights, and losses of `add_loss` and of activities are collected."""
    scope = keras.StatelessScope(collect_losses=True)
    # Not by the constructor's argument, which would round to the precision of the variables. Keras finds no regularized
    # variable that has no value here.
    regularized = [v for v in model.trainable_variables if v.regularizer is not None]
    values = [ops.cast(v.value, keras.backend.result_type(v.dtype, "float32")) for v in regularized]
    scope.state_mapping.update({id(v): value for v, value in zip(regularized, values, strict=True)})
    scope.state_mapping.update({id(v): w for v, w in zip(variables, weights, strict=True)})
    return scope


def _takes_logits(loss: Any) -> bool:
    name = getattr(loss, "__name__", None)
    if name is not None:  # a function, whose default it is
        return "crossentropy" not in name
    return bool(getattr(loss, "_fn_kwargs", {}).get("from_logits", True))


def _normalized(logits: Any) -> Any:
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    squares = ops.sum(centred**2, axis=-1, keepdims=True)
    return centred / ops.sqrt(ops.maximum(squares, 1e-20))  # a root at 0 would have no derivative


def _dot(tensors: Sequence[Any], others: Sequence[Any]) -> Any:
    return sum(ops.sum(a * b) for a, b in zip(tensors, others, strict=True))
