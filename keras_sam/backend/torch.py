"""PyTorch: variables change in place; draws without a Keras seed come from torch's global generators."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from keras.src.random.seed_generator import global_seed_generator

from keras_sam.backend import memory, parts


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """The gradients, detached."""
    return [None if g is None else g.detach() for g in gradients]


def values(variables: Sequence[Any]) -> list[Any]:
    """The variables' tensors, detached."""
    return [v.value.detach() for v in variables]


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


@torch.no_grad()
def displace(variables: Sequence[Any], slots: Sequence[Any], steps: Iterable[Any], finite: Any) -> None:
    """Add to each variable its step, if they are `finite`; its slot receives what was added.

    One variable at a time, so that no second copy of the weights is needed.
    """
    for variable, slot, step in zip(variables, slots, steps, strict=True):
        value, applied = variable.value, slot.value
        w = value.to(applied.dtype)
        # The sum is rounded: only what was really added leads back to `w`.
        torch.sub((w + torch.where(finite, step, 0.0)).to(value.dtype), w, out=applied)
        value.copy_(w + applied)


@torch.no_grad()
def replace(variables: Sequence[Any], slots: Sequence[Any]) -> None:
    """Subtract from each variable what its slot says was added."""
    for variable, slot in zip(variables, slots, strict=True):
        value, applied = variable.value, slot.value
        value.copy_(value - applied)


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
    return memory.sam_step(model, step, data, _Snapshot, _for_each_part, _choose, recoverable=True)


class _Snapshot(memory.Snapshot):
    """Holds the state of Keras's global seed generator and of torch's own generators too."""

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
