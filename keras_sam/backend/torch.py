"""PyTorch: variables change in place; draws without a Keras seed come from torch's global generators."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from keras import ops
from keras.src.random.seed_generator import global_seed_generator

from keras_sam.backend import memory


def synchronize(gradients: Sequence[Any]) -> list[Any]:
    """The gradients, detached."""
    return [None if g is None else g.detach() for g in gradients]


def values(variables: Sequence[Any]) -> list[Any]:
    """The variables' tensors, detached."""
    return [v.value.detach() for v in variables]


def assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give each variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def global_norm(tensors: Sequence[Any]) -> Any:
    """Euclidean norm over all elements of all tensors."""
    return ops.sqrt(sum(ops.sum(ops.square(t)) for t in tensors))


def two_pass_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    """Run `step` in the ascent phase and again, on the perturbed weights, in the descent phase."""
    return memory.two_pass_step(model, step, data, _remember, recoverable=True)


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def _remember(variables: Sequence[Any]) -> Callable[[], None]:
    variables = [*variables, global_seed_generator().state]
    copies = [v.value.detach().clone() for v in variables]
    generator = torch.get_rng_state()
    accelerators = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    @torch.compiler.disable
    def put_back() -> None:
        assign(variables, copies)
        torch.set_rng_state(generator)
        if accelerators is not None:
            torch.cuda.set_rng_state_all(accelerators)

    return put_back  # type: ignore[no-any-return, unused-ignore]
