"""PyTorch: reverse over reverse, on a graph that is built once for all vectors of a block."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

gradient = torch.func.grad
KEPT = 2**30  # bytes of the graphs that are held between products
_twice = sdpa_kernel(SDPBackend.MATH)  # the only attention that can be differentiated twice


def add(total: Any, found: Any, times: Any) -> Any:
    """`total + times * found`, of each of them."""
    return [t + times * f for t, f in zip(total, found, strict=True)]


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient, and products of the Hessian of `loss(weights, batch)` in the weights."""

    def value(weights: Any, batch: Any) -> Any:
        with torch.no_grad():
            return loss(weights, batch)

    def slopes(weights: Any, batch: Any) -> Any:
        weights = _leaves(weights)
        return _pull(loss(weights, batch), weights)

    def build(weights: Any, batch: Any) -> Any:
        weights = _leaves(weights)
        return weights, _checked(_pull(loss(weights, batch), weights, create_graph=True))

    graphs = _Graphs(build)

    def products(weights: Any, batch: Any, vectors: Any) -> Any:
        leaves, slope = graphs(weights, batch)
        return _stack([_pull(slope, leaves, vector, retain_graph=True) for vector in _each(vectors)])

    return value, slopes, _twice(products)


def through_outputs(predict: Callable[..., Any], middle: Callable[..., Any]) -> Callable[..., Any]:
    """Products with J' M J: J is the Jacobian of `predict(weights, batch)`, `middle(outputs, tangents, batch)` is M.

    `J v` is the derivative of `J' u · v` in `u`, at any `u`.
    """

    def build(weights: Any, batch: Any) -> Any:
        weights = _leaves(weights)
        outputs = predict(weights, batch)
        u = _leaves([torch.zeros_like(output) for output in outputs])
        return weights, outputs, u, _checked(_pull(outputs, weights, u, create_graph=True))

    graphs = _Graphs(build)

    def products(weights: Any, batch: Any, vectors: Any) -> Any:
        leaves, outputs, u, slope = graphs(weights, batch)
        found = []
        for vector in _each(vectors):
            tangents = _pull(slope, u, vector, retain_graph=True)
            cotangents = middle([output.detach() for output in outputs], tangents, batch)
            found.append(_pull(outputs, leaves, cotangents, retain_graph=True))
        return _stack(found)

    twice: Callable[..., Any] = _twice(products)
    return twice


class _Graphs:
    """What `build` makes of weights and a batch, which is two fifths of the work of a product.

    From the second product at the same weights on, the graph of a batch that is still the same is kept: of the only one
    as of several, as far as `KEPT` bytes reach.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build, self.weights = build, None

    def __call__(self, weights: Any, batch: Any) -> Any:
        if weights is not self.weights:
            self.weights, self.free = weights, KEPT
            self.seen: dict[Any, list[Any]] = {}
            self.kept: dict[Any, Any] = {}
        tensors = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
        key = tuple(map(id, tensors))
        again = key in self.seen and all(seen() is each for seen, each in zip(self.seen[key], tensors, strict=True))
        if not again:
            self.kept.pop(key, None)
        if self.kept.get(key) is not None:
            return self.kept[key]
        graph = self.build(weights, batch)
        if again and key not in self.kept:
            size = _bytes(graph)
            fits = len(self.seen) == 1 or size <= self.free
            self.kept[key] = graph if fits else None  # nor looked at again
            self.free -= size if fits else 0
        self.seen[key] = [weakref.ref(each) for each in tensors]  # of a data set there may be others in each pass
        return graph


def _bytes(graph: Any) -> int:
    """How much the nodes of a graph hold."""
    storages = {}
    for node in _nodes(graph):
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for each in keras.tree.flatten([saved, getattr(node, "saved_tensors", ())]):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _checked(slopes: Sequence[Any]) -> Sequence[Any]:
    """The slopes, if all that made them can be differentiated: PyTorch passes over `once_differentiable` functions."""
    if any(node.name() == "torch::autograd::Error" for node in _nodes(slopes)):
        raise RuntimeError("a function marked with `once_differentiable` cannot be differentiated again")
    return slopes


def _nodes(tensors: Any) -> set[Any]:
    """All that these tensors come from."""
    found, ahead = set(), [tensor.grad_fn for tensor in keras.tree.flatten(tensors)]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [following for following, _ in node.next_functions]
    return found


def _leaves(tensors: Sequence[Any]) -> list[Any]:
    return [t.detach().requires_grad_() for t in tensors]


def _pull(outputs: Any, inputs: Any, cotangents: Any = None, **options: Any) -> Any:
    """The product of cotangents and the Jacobian of `outputs` in `inputs`."""
    if cotangents is not None:  # leave out what depends on nothing
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not pairs:
            return [torch.zeros_like(each) for each in inputs]
        outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True, **options)


def _each(vectors: Sequence[Any]) -> Any:
    return zip(*(stacked.unbind() for stacked in vectors), strict=True)


def _stack(found: Sequence[Any]) -> list[Any]:
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def missing(error: Exception) -> bool:
    """Whether PyTorch has found a function without a derivative."""
    text = str(error)
    named = ("derivative for", "be differentiated again", "differentiate twice", "is not differentiable")
    return isinstance(error, RuntimeError | NotImplementedError) and any(words in text for words in named)
