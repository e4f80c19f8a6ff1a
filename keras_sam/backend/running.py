"""The training step that runs in this thread: the user's own, with a second gradient asked for inside it.

    the clean run, at w            g  = gradient at w
      calls optimizer.apply(g)     e  = rho * g / norm(g)     w <- w + e
        the asking run, at w + e   g' = gradient at w + e     as far as its own optimizer.apply(g')
                                   w <- w (restored)          base optimizer steps on g'
      goes on                      at the updated weights

The asking run is the same step on the same batch, from the state in which the clean run began. It leaves its gradient
and nothing else: what stands after a step is what the clean run wrote, and one step of each optimizer that it applied.
In the asking run those stand still: what comes after them sees the weights that they made in the clean run.
"""

import functools
import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from keras.src.optimizers.base_optimizer import BaseOptimizer


class _Thread(threading.local):
    """Of a thread, as `MirroredStrategy` runs each replica in one of its own."""

    def __init__(self) -> None:
        self.step: Any = None


thread = _Thread()


class Step(ABC):
    """A training step that is running.

    Args:
        model: The model that trains.
        run: The user's step, a function of the batch; on JAX of the state and the batch.
        data: The batch.
        climbs: Whether the model's own optimizer climbs in this step.
        part: Which part of a larger batch this is, if it is one.
    """

    def __init__(self, model: Any, run: Callable[..., Any], data: Any, climbs: bool = True, part: Any = None) -> None:
        self.model, self.run, self.data, self.climbs, self.part = model, run, data, climbs, part
        self.optimizer = model.optimizer
        self.is_sam = hasattr(self.optimizer, "ascent_needs_gradient")  # or only a second optimizer is
        self.begins_perturbed = self.is_sam and (self.optimizer.draws_noise or not self.optimizer.ascent_needs_gradient)
        self.calls: dict[int, int] = {}  # of each optimizer in the present run
        self.asked: tuple[int, int] | None = None  # in an asking run: the optimizer, and which of its calls
        self.applying: Any = None  # the optimizer whose `apply` is under way
        self.reached = False  # whether the clean run has handed gradients to the model's optimizer

    def take(self, optimizer: Any, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What `optimizer.apply`, or `stateless_apply`, does in the present run."""
        turn = id(optimizer), self.calls.get(id(optimizer), 0)
        self.calls[id(optimizer)] = turn[1] + 1
        if self.asked is not None:
            return self.answer(optimizer, *arguments) if turn == self.asked else self.stand_still(turn, *arguments)
        self.reached = self.reached or optimizer is self.optimizer
        self.applying = optimizer
        try:
            result = method(optimizer, *arguments)
        finally:
            self.applying = None
        self.applied(turn, optimizer, arguments, result)
        return result

    def asks(self, optimizer: Any) -> bool:
        """Whether the optimizer asks for a second gradient."""
        climbs = self.climbs if optimizer is self.optimizer else getattr(optimizer, "rho", 0.0) != 0.0
        return climbs and getattr(optimizer, "ascent_needs_gradient", False)

    def check_options(self, optimizer: Any) -> None:
        """Refuse what only the model's own optimizer can do."""
        if optimizer is self.optimizer:
            return
        usual = optimizer.interval == 1 and optimizer.ascent_fraction == 1.0 and not optimizer.num_batch_splits
        if not (usual and optimizer.ascent_needs_gradient and not optimizer.draws_noise):
            raise ValueError(
                f"{type(optimizer).__name__} is not the optimizer that the model was compiled with, and only for that "
                "one can the step begin at perturbed weights, with a part of the batch or without a climb: compile the "
                "model with it, leave `interval`, `ascent_fraction` and `num_batch_splits` out, or write the loop with "
                f"`first_step` and `second_step`. Received: interval={optimizer.interval}, ascent_fraction="
                f"{optimizer.ascent_fraction}, num_batch_splits={optimizer.num_batch_splits}"
            )

    def unreached(self) -> RuntimeError:
        """What to say of a step that has handed nothing to the model's optimizer."""
        model, optimizer = type(self.model).__name__, type(self.optimizer).__name__
        return RuntimeError(
            f"The training step of {model} has come to its end without handing gradients to `model.optimizer`, the "
            f"{optimizer} that the model was compiled with, so it does not train with SAM. It must call "
            "`self.optimizer.apply(gradients, variables)`, `apply_gradients`, or on JAX `stateless_apply`; "
            "`self` being this model, not another that shares its layers. A step that skips batches must not skip "
            "the first one."
        )

    def note_loss(self, loss: Any) -> None:
        """Take note of what the model's `compute_loss` returns."""
        return  # of no use on JAX

    # What a backend does in its own way.

    @abstractmethod
    def apply(self, optimizer: Any, *arguments: Any) -> Any:
        """Make the step of a SAM optimizer in the clean run: climb, ask, come back, and descend."""

    @abstractmethod
    def answer(self, optimizer: Any, *arguments: Any) -> Any:
        """Hand the gradient that the run was made for to the one who asked."""

    @abstractmethod
    def stand_still(self, turn: tuple[int, int], *arguments: Any) -> Any:
        """Do nothing in an asking run, as far as the run can tell."""

    @abstractmethod
    def applied(self, turn: tuple[int, int], optimizer: Any, arguments: Any, result: Any) -> None:
        """Keep what an asking run has to know of an optimizer's step in the clean run."""


def step_of(optimizer: Any) -> Any:
    """The running step, in which `optimizer` is applied."""
    name = type(optimizer).__name__
    if thread.step is None:
        raise RuntimeError(
            f"{name} needs two gradients a step and was given one. With `fit` or `train_on_batch`, "
            "let the model ask for the second: `class MyModel(keras_sam.SAMModel, keras.Model)`, with `SAMModel` "
            "first, or `keras_sam.as_sam_model(model)`. In a hand-written loop call `first_step` with the "
            "gradients at the weights, then `second_step` with those at the perturbed weights. "
            f"Around another optimizer SAM goes outside: `{name}(other)`."
        )
    if thread.step.applying is not optimizer:
        raise RuntimeError(
            f"{name} was applied by {type(thread.step.applying).__name__}, which hands it a part of what it needs. "
            f"Around another optimizer SAM goes outside: `{name}(other)`."
        )
    return thread.step


_watched_classes: weakref.WeakSet[type] = weakref.WeakSet()


def watch(method_name: str) -> None:
    """Let the running step decide what this method of Keras's optimizers does; with none running it does what it did.

    All classes that there are by now, as a subclass may have a method of its own, or from a mixin.
    """
    for optimizer_class in _and_subclasses(BaseOptimizer):
        if optimizer_class in _watched_classes:
            continue
        _watched_classes.add(optimizer_class)
        for owner in optimizer_class.__mro__:
            method = vars(owner).get(method_name)
            if method is not None and not hasattr(method, "watched"):
                setattr(owner, method_name, _watched(method))


def _watched(method: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def watched(optimizer: Any, *arguments: Any, **named: Any) -> Any:
        step = thread.step
        if step is None or step.applying is not None:  # the business of the optimizer that is being applied
            return method(optimizer, *arguments, **named)
        in_order = (named[name] for name in names[len(arguments) :] if name in named)
        return step.take(optimizer, method, (*arguments, *in_order))

    watched.watched = True  # type: ignore[attr-defined]
    return watched


def _and_subclasses(optimizer_class: Any) -> Iterator[Any]:
    yield optimizer_class
    for subclass in optimizer_class.__subclasses__():
        yield from _and_subclasses(subclass)
