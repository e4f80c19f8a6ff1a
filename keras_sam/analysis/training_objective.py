"""The loss as a training step has it, and the batch-norm statistics that belong to weights nobody has trained."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.analysis.objective import Objective, flatten
from keras_sam.analysis.outputs import stateless


class TrainingObjective(Objective):
    """An `Objective` that knows the training mode too: batch statistics in batch norm, and dropout.

    Still nothing of the model changes: what the training mode would assign is thrown away, and random numbers come from
    the seeds that are passed.

    Args:
        model: A compiled and built Keras model.
        batches: As for `Objective`.
        variables: Floating-point variables, the batch-norm statistics among them.
    """

    def __init__(self, model: keras.Model, batches: Iterable[Any], variables: Sequence[Any]) -> None:
        super().__init__(model, batches, variables)
        weights = {id(v) for v in model.weights}
        self._generators = [v for v in model.variables if id(v) not in weights]
        trainable = {id(v) for v in model.trainable_variables}
        self.trainable = [id(v) in trainable for v in self.variables]
        self._norms = [layer for layer in model._flatten_layers() if _keeps_statistics(layer)]
        statistics = {id(v) for layer in self._norms for v in (layer.moving_mean, layer.moving_variance)}
        masks = [np.full(shape, id(v) in statistics) for v, shape in zip(self.variables, self.shapes, strict=True)]
        self._statistics = flatten(masks).astype(bool)
        _, self._training_gradient, _ = backend.derivatives.differentiate(self._training_loss)
        self._observe, _, _ = backend.derivatives.differentiate(self._observed)

    def training_gradient(self, weights: np.ndarray, batch: Any, rng: np.random.Generator) -> np.ndarray:
        """The gradient of the loss of a training step on a batch, flat."""
        return flatten(self._mean(self._training_gradient, self.tensors(weights), [((batch, self._seeds(rng)), 1)]))

    def adapted(self, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The weights, with the batch-norm statistics that the data have with them: the mean over the batches."""
        if not self._norms:
            return weights
        batches = (((batch, self._seeds(rng)), samples) for batch, samples in self.batches)
        adapted = weights.copy()
        adapted[self._statistics] = flatten(self._mean(self._observe, self.tensors(weights), batches))
        return adapted

    def _seeds(self, rng: np.random.Generator) -> list[Any]:
        return [ops.convert_to_tensor(rng.integers(2**31, size=v.shape), v.dtype) for v in self._generators]

    def _training_loss(self, weights: Sequence[Any], batch: Any) -> Any:
        (x, y, sample_weight), seeds = batch
        with self._scope(weights, seeds):
            return self.model.compute_loss(x, y, self._trained(x), sample_weight, training=True)

    def _observed(self, weights: Sequence[Any], batch: Any) -> Any:
        """The mean and variance of the batch in each layer of batch norm, in the order of the variables."""
        (x, _, _), seeds = batch
        found = {}
        with self._scope(weights, seeds) as scope:
            for layer in self._norms:
                for variable in (layer.moving_mean, layer.moving_variance):
                    scope.state_mapping[id(variable)] = ops.zeros(variable.shape, self._dtype)
            self._trained(x)
            for layer in self._norms:
                for variable in (layer.moving_mean, layer.moving_variance):
                    found[id(variable)] = scope.get_current_value(variable) / (1 - layer.momentum)
        return [found[id(v)] for v in self.variables if id(v) in found]

    def _scope(self, weights: Sequence[Any], seeds: Sequence[Any]) -> Any:
        return stateless(self.model, [*self.variables, *self._generators], [*weights, *seeds])

    def _trained(self, x: Any) -> Any:
        return self.model(x, training=True) if self._takes_training else self.model(x)


def _keeps_statistics(layer: Any) -> bool:
    is_norm = isinstance(layer, keras.layers.BatchNormalization) and not getattr(layer, "renorm", False)
    return is_norm and bool(layer.trainable) and layer.momentum < 1
