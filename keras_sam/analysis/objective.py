"""The loss of a model as a function of its weights, which the model itself never feels."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam import backend


class Objective:
    """The loss that `model.evaluate` reports, and its derivatives, at any weights.

    Weights and directions are flat float64 vectors. The computation is in float32, or float64 where the model is; it is
    stateless: no variable, metric or random state of the model changes, so there is nothing to restore.

    Args:
        model: A compiled and built Keras model.
        batches: Pairs of `(x, y, sample_weight)` and its number of samples, to be gone through many times.
        variables: What the loss is a function of: the model's trainable variables by default.

    Raises:
        ValueError: if the model is not compiled, not built, has nothing to vary, or wraps a PyTorch module.
    """

    def __init__(self, model: keras.Model, batches: Iterable[Any], variables: Sequence[Any] | None = None) -> None:
        if not getattr(model, "compiled", False):
            raise ValueError(f"`model` must be compiled, for its loss. Received: model={model!r}")
        if not model.built:
            raise ValueError(f"`model` must be built: call it on data once. Received: model={model!r}")
        wrapped = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.TorchModuleWrapper)]
        if wrapped:
            raise ValueError(
                "`model` must consist of Keras layers to be measured: one that wraps a PyTorch module computes with "
                f"the module's own weights, whatever others are tried. Received: layers {[w.name for w in wrapped]}"
            )
        self.model, self.batches = model, batches
        self.variables = list(model.trainable_variables if variables is None else variables)
        if not self.variables:
            raise ValueError(f"`model` has no trainable weights to vary. Received: model={model!r}")
        self.shapes = [tuple(v.shape) for v in self.variables]
        self.start = flatten(self.variables)
        wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in self.variables)
        self._dtype = "float64" if wide else "float32"
        self._takes_training = "training" in inspect.signature(model.call).parameters
        self._build_loss()
        self._value, self._gradient, self._product = backend.differentiate(self._loss)

    def loss(self, weights: np.ndarray, batches: Iterable[Any] | None = None) -> float:
        """The mean loss over all samples."""
        return float(self._mean(self._value, weights, batches)[0])

    def gradient(self, weights: np.ndarray, batches: Iterable[Any] | None = None) -> np.ndarray:
        """The gradient of `loss`, flat."""
        return self._mean(self._gradient, weights, batches)

    def product(self, vector: np.ndarray) -> np.ndarray:
        """The Hessian of `loss` at the model's weights, times `vector`."""
        return self._mean(self._product, self.start, None, self.tensors(vector))

    def tensors(self, vector: np.ndarray) -> list[Any]:
        """A flat vector, in the shapes of the variables."""
        return [ops.convert_to_tensor(part, self._dtype) for part in unflatten(vector, self.shapes)]

    def _mean(self, function: Any, weights: np.ndarray, batches: Iterable[Any] | None, *more: Any) -> np.ndarray:
        tensors, total, count = self.tensors(weights), np.zeros(1), 0
        with full_precision(self.model):
            for batch, samples in self.batches if batches is None else batches:
                total = total + samples * flatten(keras.tree.flatten(function(tensors, batch, *more)))
                count += samples
        if not count:
            raise ValueError("There must be at least one sample. Received: no batches.")
        return np.asarray(total / count)

    def _loss(self, weights: Sequence[Any], batch: Any) -> Any:
        x, y, sample_weight = batch
        scope = keras.StatelessScope(collect_losses=True)  # those of `add_loss` and of activities
        # Not by the constructor's argument, which would round to the precision of the variables.
        scope.state_mapping.update({id(v): w for v, w in zip(self.variables, weights, strict=True)})
        with scope:
            return self.model.compute_loss(x, y, self._predict(x), sample_weight, training=False)

    def _predict(self, x: Any) -> Any:
        return self.model(x, training=False) if self._takes_training else self.model(x)

    def _build_loss(self) -> None:
        """Let a loss that has never been computed create its metrics now, as nothing can be created statelessly."""
        compiled = self.model._compile_loss
        if compiled is not None and not compiled.built:
            (x, y, sample_weight), _ = next(iter(self.batches))
            self.model.compute_loss(x, y, self._predict(x), sample_weight, training=False)
            for metric in compiled.metrics:
                metric.reset_state()


def flatten(tensors: Iterable[Any]) -> np.ndarray:
    """All elements in one float64 vector."""
    return np.concatenate([np.ravel(ops.convert_to_numpy(t)).astype("float64") for t in tensors])


def unflatten(vector: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """A vector's parts, in `shapes`."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]


@contextlib.contextmanager
def full_precision(model: keras.Model) -> Iterator[None]:
    """Let layers that compute in half precision compute in float32."""
    narrow = [
        (layer, layer.dtype_policy)
        for layer in model._flatten_layers()
        if getattr(layer, "compute_dtype", None) in ("float16", "bfloat16")
    ]
    try:
        for layer, _ in narrow:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in narrow:
            layer.dtype_policy = policy
