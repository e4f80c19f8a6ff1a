"""PyTorch: variables change in place; draws without a Keras seed come from torch's global generators."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import keras
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from keras_sam.backend import memory, parts
from keras_sam.backend.running import thread, watch


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """The gradients as tensors, detached."""
    return [None if g is None else torch.as_tensor(g).detach() for g in gradients]


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


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def sam_step(model: Any, run: Callable[[Any], Any], data: Any) -> Any:
    """Make a step of `model`, of which `run` is the user's own.

    `torch.compile` sees the runs alone. Compiled code does not tell what it assigns: a rehearsal does, once.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        raise RuntimeError(
            "Keras does not average gradients over PyTorch processes, so each would train a model of its own. Write "
            "the loop: wrap the model in `torch.nn.parallel.DistributedDataParallel` and call `first_step` and "
            "`second_step` with its gradients."
        )
    watch("apply")
    memory.watch_assignments()
    is_keras_own = getattr(run, "__func__", None) is keras.Model.train_step
    if model.jit_compile and model.optimizer not in _WRITTEN:
        _WRITTEN[model.optimizer] = _Step(is_keras_own, [], model, run, data).rehearse()
    if model.jit_compile:
        run = _compiled(run)
    new_step = partial(_Step, is_keras_own, _WRITTEN.get(model.optimizer, []))
    return memory.sam_step(model, run, data, new_step, _for_each_part, _choose)


_WRITTEN: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()  # by optimizer, of compiled models


def _compiled(run: Any) -> Callable[[Any], Any]:
    if not hasattr(run, "__func__"):
        compiled: Callable[[Any], Any] = torch.compile(run)
        return compiled
    return partial(_compiled_method(run.__func__), run.__self__)


@cache
def _compiled_method(method: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(method)
    return compiled


class _Buffer:
    """A buffer of a torch module, as if it were a Keras variable."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.dtype = keras.backend.standardize_dtype(value.dtype)


class _Step(memory.InPlaceStep):
    """A step in which modules may hold buffers, and random numbers come from torch's own generators too."""

    def __init__(self, is_keras_own: bool, written: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_keras_own, self.written = is_keras_own, written
        self.slopes = _slopes(self.model)

    def rehearse(self) -> list[Any]:
        """Run the user's step as far as its `apply`, put everything back, and return what it has assigned."""
        outer, thread.step = thread.step, self
        self.asked = id(self.optimizer), 0
        try:
            self.keep(self.untrained())
            with self.asking():
                self.run(self.data)
        except memory.Answer:
            pass
        finally:
            thread.step = outer
            self.undo()
        return list(self.assigned.values())

    def untrained(self) -> list[Any]:
        return [*super().untrained(), *self.written, *_buffers(self.model)]

    def assigning(self, variable: Any) -> None:
        if not torch.compiler.is_compiling():
            super().assigning(variable)

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def take(self, optimizer: Any, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return super().take(optimizer, method, arguments)

    def random_state(self) -> Callable[[], None]:
        cpu = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

        def put_back() -> None:
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)

        return put_back

    def answer(self, optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> None:
        held = {variable.value.data_ptr() for variable, _ in self.before.values()}  # whose values will be put back
        super().answer(optimizer, [g if g is None or g.data_ptr() not in held else g.clone() for g in gradients])

    def release(self, gradients: Any) -> None:
        if self.is_keras_own:
            gradients.clear()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Keras applies optimizers where nothing is differentiated; and the clean run's `grad` must not be added to."""
        _check_slopes(self.slopes)
        tensors = [tensor for tensor, _, _ in self.slopes]
        clean = [None if self.is_keras_own else tensor.grad for tensor in tensors]
        for tensor in tensors:
            tensor.grad = None
        try:
            with torch.enable_grad(), _torch_optimizers_refused():
                yield
        finally:
            for tensor, slope in zip(tensors, clean, strict=True):
                tensor.grad = slope


def _buffers(model: Any) -> list[_Buffer]:
    buffers = {id(buffer): buffer for layer in model._flatten_layers() for buffer in layer.buffers()}
    return [_Buffer(buffer) for buffer in buffers.values()]


def _slopes(model: Any) -> list[tuple[Any, Any, Any]]:
    """Every trained tensor, with its `grad` as the step found it and the version of that."""
    tensors = [v.value for v in model.trainable_variables]
    return [(t, *((_nothing, 0) if t.grad is None else (weakref.ref(t.grad), t.grad._version))) for t in tensors]


def _nothing() -> None:
    """A weak reference to no tensor."""


def _check_slopes(slopes: Sequence[tuple[Any, Any, Any]]) -> None:
    before = ((tensor.grad, grad(), version) for tensor, grad, version in slopes)
    if any(grad is not None and grad is old and grad._version != version for grad, old, version in before):
        raise RuntimeError(
            "The training step adds to the gradients that an earlier step has left in `grad`, from which the gradient "
            "at the perturbed weights cannot be told. Begin each step with `self.zero_grad()`; to accumulate gradients "
            "over several batches set `gradient_accumulation_steps` on the base optimizer."
        )


@contextlib.contextmanager
def _torch_optimizers_refused() -> Iterator[None]:
    """In an asking run an optimizer of Keras's stands still; one of torch's own would make a second step."""

    def refuse(optimizer: Any, args: Any, kwargs: Any) -> None:
        raise RuntimeError(
            f"`{type(optimizer).__name__}` of PyTorch would make two steps a batch in the training step of a model "
            "that is compiled with a SAM optimizer. Use the Keras optimizer of that name, or write the loop with "
            "`first_step` and `second_step`."
        )

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def make_train_function(model: Any, make: Callable[[], Any], force: bool) -> None:
    """Let Keras make the function that trains, which runs the step in Python."""
    make()


def _choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    return yes() if bool(condition) else no()


def _for_each_part(run: Callable[[Any, Any], Any], data: Any, splits: int) -> Any:
    for part_data, part in parts.split(data, splits):
        result = run(part_data, part)
    return result
