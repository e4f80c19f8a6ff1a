"""SAM as a user would have it without keras_sam, on the same networks: a step for each way, and its baseline.

What a peer needs to end in the end goes on the `stack` it is given.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from models import NETWORKS

LEARNING_RATE, MOMENTUM, RHO = 0.01, 0.9, 0.05


class Peer(NamedTuple):
    """A step, finished when it returns."""

    name: str
    base: str
    step: Callable[[], Any]
    weights: Callable[[], Any]
    flops: Callable[[], float] | None = None  # of a step, where XLA counts them
    wrong: str | None = None  # where it is not SAM, or not safe


def make_model(network: str) -> keras.Model:
    """The network, with the same initial weights each time."""
    keras.utils.set_random_seed(0)
    build, shape = NETWORKS[network]
    return build(shape, 10)


def optax_peers(network: str, x: Any, y: Any, stack: ExitStack) -> list[Peer]:
    """`optax.contrib.sam` in its opaque mode, in a compiled step of its own."""
    import jax
    import optax

    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def make(name: str, optimizer: Any, sam: bool) -> Peer:
        model = make_model(network)

        def loss(weights: Any, state: Any) -> Any:
            logits, state = model.stateless_call(weights, state, x, training=True)
            return loss_fn(y, logits), state

        @jax.jit
        def step(weights: Any, state: Any, slots: Any) -> Any:
            gradients, new_state = jax.grad(loss, has_aux=True)(weights, state)
            options = {"grad_fn": lambda w, _: jax.grad(loss, has_aux=True)(w, state)[0]} if sam else {}
            updates, slots = optimizer.update(gradients, slots, weights, **options)
            return optax.apply_updates(weights, updates), new_state, slots

        weights = [v.value for v in model.trainable_variables]
        held = [weights, [v.value for v in model.non_trainable_variables], optimizer.init(weights)]

        def run() -> None:
            held[:] = jax.block_until_ready(step(*held))

        def flops() -> float:
            return float(step.lower(*held).compile().cost_analysis()["flops"])

        wrong = "a gradient of zero gives NaN weights" if sam else None
        return Peer(name, "optax SGD", run, lambda: held[0], flops, wrong)

    sgd = optax.sgd(LEARNING_RATE, MOMENTUM)
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    return [
        make("optax SGD", sgd, sam=False),
        make("optax.contrib.sam", optax.contrib.sam(sgd, climb, opaque_mode=True), sam=True),
    ]


def torch_peers(network: str, x: Any, y: Any, stack: ExitStack) -> list[Peer]:
    """SAM, WSAM and GSAM of `pytorch_optimizer`."""
    import pytorch_optimizer
    import torch

    x, y = torch.from_numpy(x), torch.from_numpy(y).long()
    base, options = torch.optim.SGD, {"lr": LEARNING_RATE, "momentum": MOMENTUM}

    def make(name: str, wrap: Callable[..., Any]) -> Peer:
        model = make_model(network)
        weights = [v.value for v in model.trainable_variables]
        optimizer = wrap(model, weights)

        @torch.enable_grad()
        def backward() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x, training=True), y)
            loss.backward()
            return None, loss

        def run() -> None:
            if name.endswith(("SGD", " SAM")):
                backward()
            optimizer.step(*([] if name.endswith("SGD") else [backward]))

        wrong = None if name.endswith("SGD") else "Keras's batch-norm statistics move in both passes; two dropout masks"
        return Peer(name, "torch SGD", run, lambda: [w.detach().numpy() for w in weights], wrong=wrong)

    class Fixed:
        """A schedule of the radius, as GSAM wants one."""

        def step(self) -> float:
            return RHO

    def gsam(model: Any, weights: Any) -> Any:
        return pytorch_optimizer.GSAM(weights, base(weights, **options), model, Fixed())

    return [
        make("torch SGD", lambda model, weights: base(weights, **options)),
        make("pytorch_optimizer SAM", lambda model, weights: pytorch_optimizer.SAM(weights, base, RHO, **options)),
        make(
            "pytorch_optimizer WSAM",
            lambda model, weights: pytorch_optimizer.WSAM(model, weights, base, RHO, **options),
        ),
        make("pytorch_optimizer GSAM", gsam),
    ]


def tf_keras_peers(network: str, x: Any, y: Any, stack: ExitStack) -> list[Peer]:
    """`SharpnessAwareMinimization` of legacy Keras, in a process of its own that steps when it is told to."""
    command = [sys.executable, str(Path(__file__).with_name("tf_keras_worker.py")), network, str(len(x))]
    worker = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    folder, embeds = Path(stack.enter_context(tempfile.TemporaryDirectory())), network == "transformer"

    def ask(*words: str) -> None:
        worker.stdin.write(" ".join(words) + "\n")
        worker.stdin.flush()
        if worker.stdout.readline() != "done\n":
            raise RuntimeError("The process of tf_keras ended; what it said stands above.")

    def make(name: str) -> Peer:
        initial, path = folder / f"{name}_initial.npz", folder / f"{name}.npz"
        np.savez(initial, *make_model(network).get_weights())
        ask("load", name, str(initial))

        def weights() -> list[Any]:
            ask("save", name, str(path))
            with np.load(path) as file:
                return [file[f"arr_{i}"] for i in range(len(file.files))]

        wrong = "the first pass runs in inference mode; regularizers and `add_loss` are ignored"
        if name == "SGD":
            wrong = "SharpnessAwareMinimization fails on its Embedding" if embeds else None
        return Peer(f"tf_keras {name}", "tf_keras SGD", lambda: ask("step", name), weights, wrong=wrong)

    return [make("SGD")] if embeds else [make("SGD"), make("SharpnessAwareMinimization")]


PEERS = {"jax": optax_peers, "torch": torch_peers, "tensorflow": tf_keras_peers}
