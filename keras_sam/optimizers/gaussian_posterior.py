"""What Bayesian SAM knows of the weights: a momentum, and a precision that says how sure each weight is."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers.slots import Slots


def standard_normal(variables: Sequence[Any], dtype: str, seed: Any) -> list[Any]:
    """Noise of the shape of each variable, in one draw: XLA takes half a second to compile one on a CPU."""
    sizes = [math.prod(variable.shape) for variable in variables]
    flat = keras.random.normal((sum(sizes),), dtype=dtype, seed=seed)
    ends = list(itertools.accumulate(sizes))
    pieces = zip(variables, sizes, ends, strict=True)
    return [ops.reshape(flat[end - size : end], variable.shape) for variable, size, end in pieces]


class GaussianPosterior:
    """N(w, 1 / (num_data * s)) around the weights w, element by element.

    Args:
        optimizer: The optimizer, which has the rates; its slots hold the momentum m and the precision s.
        variables: The trainable variables.
    """

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        self.optimizer = optimizer
        self.momentum = Slots(optimizer, variables, "momentum")
        initial = keras.initializers.Constant(optimizer.initial_precision)
        self.precision = Slots(optimizer, variables, "precision", initial)

    def spread(self, indices: Sequence[int], noise: Iterable[Any]) -> list[Any]:
        """Standard normal noise for the variables at `indices`, at the standard deviation of each weight."""
        count = float(self.optimizer.num_data)
        return [n * ops.rsqrt(count * s) for n, s in zip(noise, self.precision.read(indices), strict=True)]

    def over_precision(self, tensors: Mapping[int, Any]) -> dict[int, Any]:
        """Each tensor, by the index of its variable, over s."""
        return {i: t / s for (i, t), s in zip(tensors.items(), self.precision.read(tensors), strict=True)}

    def learn(self, descent: Mapping[int, Any], ascent: Mapping[int, Any]) -> dict[int, Any]:
        """Take both gradients in, unless they overflowed: into m the one, into s the size of the other.

        Returns:
            `m / s`, with the new m and the old s, and with the loss scale of the gradients.
        """
        optimizer = self.optimizer
        decay = optimizer.prior_precision / optimizer.num_data
        finite = ops.isfinite(backend.global_norm([*descent.values(), *ascent.values()]))
        weights = backend.values([optimizer._trainable_variables[i] for i in descent])
        weights = backend.cast(weights, optimizer._working_dtype)
        pulled = backend.weighted_sum(1.0, optimizer.unscaled(descent).values(), decay, weights)
        m = self.momentum.blended(optimizer.beta_1, dict(zip(descent, pulled, strict=True)), 1 - optimizer.beta_1)
        steps = [optimizer.scale_loss(step) for step in self.over_precision(m).values()]
        sizes, s = optimizer.unscaled(ascent), dict(zip(descent, self.precision.read(descent), strict=True))
        seen = {i: ops.sqrt(s[i]) * ops.abs(sizes[i]) + (optimizer.damping + decay) for i in descent}
        self.momentum.write_if(finite, m)
        self.precision.write_if(finite, self.precision.blended(optimizer.beta_2, seen, 1 - optimizer.beta_2))
        return dict(zip(descent, backend.select(finite, steps, descent.values()), strict=True))
