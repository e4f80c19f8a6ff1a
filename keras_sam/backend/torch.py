"""PyTorch: variables change in place; draws without a Keras seed come from torch's global generators."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import torch
from keras.src.random.seed_generator import global_seed_generator
from torch.nn.attention import SDPBackend, sdpa_kernel

from keras_sam.backend import memory, parts


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """The gradients, detached."""
    return [None if g is None else g.detach() for g in gradients]


def values(variables: Sequence[Any]) -> list[Any]:
    """The variables' tensors, detached."""
    return [v.value.detach() for v in variables]


def cast(tensors: Iterable[Any], dtype: str) -> list[Any]:
    """The tensors, of the dtype of that name."""
    return [_to(getattr(torch, dtype), t) for t in tensors]


@torch.no_grad()
def assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give each variable its value."""
    if variables:
        torch._foreach_copy_([v.value for v in variables], values)


def share(gradient: Any) -> Any:
    """The gradient itself, as nothing will sum it over replicas."""
    return gradient


def global_norm(tensors: Iterable[Any]) -> Any:
    """Euclidean norm over all elements of all tensors."""
    return torch.nn.utils.get_total_norm(tensors)


def select(condition: Any, yes: Iterable[Any], no: Iterable[Any]) -> list[Any]:
    """One list of tensors or the other."""
    return [torch.where(condition, a, b) for a, b in zip(yes, no, strict=True)]


def weighted_sum(a: Any, x: Iterable[Any], b: Any, y: Iterable[Any]) -> list[Any]:
    """`a * x + b * y` for each pair of tensors."""
    x, y = list(x), list(y)
    if not x:  # which the functions below refuse
        return []
    total = torch._foreach_mul(x, a)
    torch._foreach_add_(total, torch._foreach_mul(y, b))
    return list(total)


@torch.no_grad()
def displace(
    variables: Sequence[Any], slots: Sequence[Any], directions: Iterable[Any], length: Any, finite: Any
) -> None:
    """Add to each variable `length` times its direction, if that is `finite`; its slot receives what was added."""
    for group in _groups(variables, slots, directions):
        values = [variable.value for variable, _, _ in group]
        applied = [slot.value for _, slot, _ in group]
        flat = torch.cat([direction.reshape(-1) for _, _, direction in group])
        flat = torch.where(finite, length * flat, 0.0)
        steps = [part.view_as(e) for part, e in zip(flat.split([e.numel() for e in applied]), applied, strict=True)]
        weights = [_to(e.dtype, w) for w, e in zip(values, applied, strict=True)]
        moved = torch._foreach_add(weights, steps)
        # The sum is rounded: only what was really added leads back to the weights.
        moved = [_to(m.dtype, _to(w.dtype, m)) for m, w in zip(moved, values, strict=True)]
        torch._foreach_copy_(applied, torch._foreach_sub(moved, weights))
        torch._foreach_copy_(values, torch._foreach_add(weights, applied))


def _to(dtype: torch.dtype, tensor: Any) -> Any:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)  # a call is dear, for hundreds of variables


GROUP = 2**22  # elements


def _groups(*items: Iterable[Any]) -> Iterator[list[Any]]:
    """Neighbours of some `GROUP` elements together: one call for each group, and no second copy of the weights."""
    group, elements = [], 0
    for each in zip(*items, strict=True):
        group.append(each)
        elements += each[-1].numel()
        if elements >= GROUP:
            yield group
            group, elements = [], 0
    if group:
        yield group


@torch.no_grad()
def replace(variables: Sequence[Any], slots: Sequence[Any]) -> None:
    """Subtract from each variable what its slot says was added."""
    if variables:
        torch._foreach_sub_([v.value for v in variables], [slot.value for slot in slots])


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient and Hessian-vector product of `loss(weights, batch)`, a scalar, in the weights.

    The product takes `(weights, batch, vectors)`.
    """

    def slopes(weights: Any, batch: Any, create_graph: bool) -> Any:
        value = loss(weights, batch)
        return torch.autograd.grad(value, weights, create_graph=create_graph, materialize_grads=True)

    def value(weights: Any, batch: Any) -> Any:
        with torch.no_grad():
            return loss(weights, batch)

    def gradient(weights: Any, batch: Any) -> Any:
        return slopes([w.detach().requires_grad_() for w in weights], batch, create_graph=False)

    @sdpa_kernel(SDPBackend.MATH)  # the only attention that can be differentiated twice
    def product(weights: Any, batch: Any, vectors: Any) -> Any:
        weights = [w.detach().requires_grad_() for w in weights]
        slope = sum((g * v).sum() for g, v in zip(slopes(weights, batch, create_graph=True), vectors, strict=True))
        return torch.autograd.grad(slope, weights, materialize_grads=True)

    return value, gradient, product


def sam_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    """Run the passes of one step of a SAM optimizer, in each of which `step` is run."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        raise RuntimeError(
            "Keras does not average gradients over PyTorch processes, so each would train a model of its own. Write "
            "the loop: wrap the model in `torch.nn.parallel.DistributedDataParallel` and call `first_step` and "
            "`second_step` with its gradients."
        )
    return memory.sam_step(model, step, data, _buffers(model), _Snapshot, _for_each_part, _choose, recoverable=True)


class _Buffer:
    """A buffer of a torch module inside the model, as if it were a Keras variable."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.dtype = keras.backend.standardize_dtype(value.dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def _buffers(model: Any) -> list[_Buffer]:
    wrappers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.TorchModuleWrapper)]
    return [_Buffer(buffer) for wrapper in wrappers for buffer in wrapper.module.buffers()]


class _Snapshot(memory.Snapshot):
    """Holds the state of Keras's global seed generator and of torch's own, for CPU and CUDA, too."""

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = [*variables, global_seed_generator().state]
        self.copies = [value.clone() for value in values(self.variables)]
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def put_back(self) -> None:
        assign(self.variables, self.copies)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


def _choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    return yes() if bool(condition) else no()


def _for_each_part(run: Callable[[Any, int, Any], Any], data: Any, splits: int) -> Any:
    for index, (part, share) in enumerate(parts.split(data, splits)):
        result = run(part, index, share)
    return result
