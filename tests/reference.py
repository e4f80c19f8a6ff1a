"""A plain float64 NumPy SAM: the oracle for every backend.

Weights are one flat vector and a loss is any analytic NumPy function of it, so that the complex-step
derivative gives its gradient to rounding, without a hand-written backward pass.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

Loss = Callable[[np.ndarray, object], np.ndarray]

TRAJECTORIES = np.load(Path(__file__).parent / "data" / "trajectories.npz")
SHAPES = [(6, 8), (8,), (8, 3), (3,)]  # of the network that the published trajectories train


def gradient(loss: Loss, w: np.ndarray, batch: object) -> np.ndarray:
    step = 1e-30
    directions = np.eye(len(w)) * (1j * step)
    return np.array([loss(w + d, batch).imag / step for d in directions])


class SGD:
    """Momentum SGD as Keras and PyTorch have it: v <- m v - lr g, w <- w + v."""

    def __init__(self, learning_rate: float = 0.1, momentum: float = 0.9):
        self.learning_rate, self.momentum, self.velocity = learning_rate, momentum, 0.0

    def __call__(self, w: np.ndarray, g: np.ndarray) -> np.ndarray:
        self.velocity = self.momentum * self.velocity - self.learning_rate * g
        return w + self.velocity


def perturbation(w: np.ndarray, g: np.ndarray, rho: float, adaptive: bool = False) -> np.ndarray:
    size = np.abs(w) if adaptive else np.ones_like(w)
    return rho * size**2 * g / (np.linalg.norm(size * g) + 1e-12)


def train(
    loss: Loss, w: np.ndarray, batches: Iterable, base: Callable, rho: float = 0.0, adaptive: bool = False
) -> Iterator[np.ndarray]:
    """The weights after each SAM step; plain steps of `base` for rho = 0."""
    for batch in batches:
        e = perturbation(w, gradient(loss, w, batch), rho, adaptive) if rho else 0.0
        w = base(w, gradient(loss, w + e, batch))
        yield w


def looksam(batches: Iterable, rho: float, interval: int, alpha: float) -> Iterator[np.ndarray]:
    """The weights after each step of LookSAM on the published problem: SAM steps, and steps that reuse `h`."""
    w, base = TRAJECTORIES["initial"], SGD()
    for step, batch in enumerate(batches):
        g = gradient(two_layer_loss, w, batch)
        if step % interval == 0:
            descent = gradient(two_layer_loss, w + perturbation(w, g, rho), batch)
            h = descent - (g @ descent) / (g @ g) * g
        else:
            descent = g + alpha * np.linalg.norm(g) / np.linalg.norm(h) * h
        w = base(w, descent)
        yield w


def unflatten(w: np.ndarray, shapes: list[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    ends = np.cumsum([np.prod(s, dtype=int) for s in shapes])
    return [part.reshape(s) for part, s in zip(np.split(w, ends[:-1]), shapes, strict=True)]


def flatten(weights: Iterable) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(w, "float64")) for w in weights])


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sparse categorical cross-entropy of each sample."""
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(y)), y]


def two_layer_loss(w: np.ndarray, batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    x, y = batch
    kernel1, bias1, kernel2, bias2 = unflatten(w)
    return cross_entropy(np.tanh(x @ kernel1 + bias1) @ kernel2 + bias2, y).mean()
