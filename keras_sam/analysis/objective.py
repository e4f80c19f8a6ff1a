"""The loss of a model as a function of its weights, which the model itself never feels."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.analysis.outputs import Outputs, stateless
from keras_sam.optimizers import arguments

MATRICES = ("hessian", "gauss_newton", "fisher")
BLOCK = 8  # vectors that are multiplied together


class NotDifferentiableError(ValueError):
    """The backend does not know a derivative that is asked for, or it is not finite."""


class Objective:
    """The loss that `model.evaluate` reports, and its derivatives, at any weights.

    Weights and directions are flat float64 vectors. The computation is in float32, or float64 where the model is; it is
    stateless: no variable, metric or random state of the model changes, so there is nothing to restore.

    Args:
        model: A compiled and built Keras model.
        batches: Pairs of `(x, y, sample_weight)` and its number of samples, to be gone through many times.
        variables: What the loss is a function of: the model's trainable variables by default, a regular expression or
            a list of them that is searched for in their paths, or a list of variables of the model.
        matrix: What `product` multiplies with, one of `MATRICES`.
        normalize_logits: Whether the outputs are centred and scaled to norm 1 before the loss.

    Raises:
        ValueError: if the model is not compiled, not built, has nothing to vary, or wraps a PyTorch module; or an
            argument is none of these.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Iterable[Any],
        variables: str | Sequence[Any] | None = None,
        matrix: str = "hessian",
        normalize_logits: bool = False,
    ) -> None:
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
        if matrix not in MATRICES:
            raise ValueError(f"`matrix` must be one of {MATRICES}. Received: matrix={matrix!r}")
        self.model, self.batches = model, batches
        self.variables = _chosen(model, variables)
        if not self.variables:
            raise ValueError(f"`model` has no trainable weights to vary. Received: model={model!r}")
        self.shapes = [tuple(v.shape) for v in self.variables]
        self.start = flatten(self.variables)
        wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in self.variables)
        self._dtype = "float64" if wide else "float32"
        self._takes_training = "training" in inspect.signature(model.call).parameters
        self._outputs = Outputs(model, normalize_logits)
        self._build_loss()
        self._value, self._gradient, self._products = backend.derivatives.differentiate(self._loss)
        if matrix != "hessian":
            if matrix == "fisher":
                self._outputs.check_weighting(self._predictions_of_first_batch())
            middle = getattr(self._outputs, matrix)
            self._products = backend.derivatives.through_outputs(self._predictions, middle)
        self._start = self.tensors(self.start)

    def loss(self, weights: np.ndarray, batches: Iterable[Any] | None = None) -> float:
        """The mean loss over all samples."""
        return float(self._mean(self._value, self.tensors(weights), batches)[0])

    def gradient(self, weights: np.ndarray, batches: Iterable[Any] | None = None) -> np.ndarray:
        """The gradient of `loss`, flat."""
        return flatten(self._mean(self._gradient, self.tensors(weights), batches))

    def product(self, vector: np.ndarray) -> np.ndarray:
        """The matrix at the model's weights, times `vector`."""
        return self.products(vector[:, None])[:, 0]

    def products(self, vectors: np.ndarray) -> np.ndarray:
        """The matrix at the model's weights, times each column of `vectors`: some together, in blocks of one size."""
        count = vectors.shape[1]
        size = -(-count // -(-count // BLOCK))
        rows = np.concatenate([vectors.T, np.zeros((-count % size, len(self.start)))])
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        found = []
        for block in np.split(rows, len(rows) // size):
            parts = zip(np.split(block, ends, axis=1), self.shapes, strict=True)
            stacked = [ops.convert_to_tensor(part.reshape(size, *shape), self._dtype) for part, shape in parts]
            means = self._mean(self._products, self._start, None, stacked)
            found.append(np.concatenate([np.reshape(ops.convert_to_numpy(m), (size, -1)) for m in means], axis=1))
        products = np.concatenate(found)[:count].T.astype("float64")
        if not np.isfinite(products).all():
            raise NotDifferentiableError(
                f"The curvature must be finite to be measured. Received: model={self.model!r}, where it is not"
            )
        return products

    def tensors(self, vector: np.ndarray) -> list[Any]:
        """A flat vector, in the shapes of the variables."""
        return [ops.convert_to_tensor(part, self._dtype) for part in unflatten(vector, self.shapes)]

    def _mean(self, function: Any, weights: Sequence[Any], batches: Iterable[Any] | None, *more: Any) -> list[Any]:
        """The mean over samples: of losses in float64, of tensors where they are."""
        total: list[Any] = []
        count = 0
        with full_precision(self.model):
            for batch, samples in self.batches if batches is None else batches:
                found = self._derivative(function, weights, batch, *more)
                if isinstance(found, list | tuple):
                    total = backend.derivatives.add(total or [0.0] * len(found), list(found), samples)
                else:
                    total = [sum(total) + samples * flatten([found])[0]]
                count += samples
        if not count:
            raise ValueError("There must be at least one sample. Received: no batches.")
        return [t / count for t in total]

    def _derivative(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            if not backend.derivatives.missing(error):
                raise
            raise NotDifferentiableError(
                "`model` and its loss must consist of operations whose derivatives the backend knows; one has none. "
                "Curvature needs second derivatives: measure what needs the first only, such as `sharpness`, or put "
                "another operation in its place. "
                f"Received: model={self.model!r}, of which the backend says: {_last_line(error)}"
            ) from error

    def _loss(self, weights: Sequence[Any], batch: Any) -> Any:
        x, y, sample_weight = batch
        with stateless(self.model, self.variables, weights):
            return self.model.compute_loss(x, y, self._predict(x), sample_weight, training=False)

    def _predictions(self, weights: Sequence[Any], batch: Any) -> list[Any]:
        with stateless(self.model, self.variables, weights):
            return self._outputs.flat(self._predict(batch[0]))

    def _predict(self, x: Any) -> Any:
        return self._outputs.normalized(self.model(x, training=False) if self._takes_training else self.model(x))

    def _predictions_of_first_batch(self) -> tuple[list[Any], Any]:
        batch, _ = next(iter(self.batches))
        with full_precision(self.model):
            return self._predictions(self.tensors(self.start), batch), batch

    def _build_loss(self) -> None:
        """Let a loss that has never been computed create its metrics now, as nothing can be created statelessly."""
        compiled = self.model._compile_loss
        if compiled is not None and not compiled.built:
            (x, y, sample_weight), _ = next(iter(self.batches))
            self.model.compute_loss(x, y, self._predict(x), sample_weight, training=False)
            for metric in compiled.metrics:
                metric.reset_state()


def _chosen(model: keras.Model, variables: Any) -> list[Any]:
    if variables is None:
        return list(model.trainable_variables)
    if not isinstance(variables, str) and len(variables) and all(hasattr(v, "path") for v in variables):
        return list(variables)
    patterns = arguments.patterns("variables", variables) or ""
    matched = arguments.matching("variables", patterns, [v.path for v in model.trainable_variables])
    return [v for v, chosen in zip(model.trainable_variables, matched, strict=True) if chosen]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


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
