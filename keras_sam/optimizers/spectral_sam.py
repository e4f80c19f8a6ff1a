"""Spectral SAM: climb in the geometry of Muon, along the orthogonalized gradient of each matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sam import backend
from keras_sam.optimizers import arguments
from keras_sam.optimizers.asam import BIAS_LIKE
from keras_sam.optimizers.looksam import LookSAMOptimizer
from keras_sam.optimizers.polar_factor import polar_factor


@keras.saving.register_keras_serializable(package="keras_sam")
class SpectralSAMOptimizer(LookSAMOptimizer):
    r"""SAM whose neighbourhood is measured as Muon measures its steps: by the spectral norm of each matrix.

    For a matrix W with gradient G = U S V^T, and for the rest of the weights w with gradient g together:

        E = rho * U V^T                             for each matrix by itself
        e = rho * rest_ratio * g / (‖g‖ + epsilon)  for all of the rest

    E raises the loss most, to first order, among all with a spectral norm of at most `rho`, which are those that change
    the layer's output by at most `rho` times the length of its input. All singular values of E are `rho`, so that its
    Euclidean norm is `rho * sqrt(rank)`: no matrix and no direction takes most of the radius, as may be in SAM. U V^T
    comes from Newton-Schulz iterations, as in Muon, but carried on to rounding.

    Matrices are the kernels: variables with two or more axes, of which the last is taken for the columns and all others
    for the rows, as in `keras.layers.Conv2D`. Embeddings, biases and what `exclude_layers` names are the rest.

    Otherwise it is `LookSAMOptimizer`, which climbs on every `interval`-th step and reuses what it found in between. It
    costs 1 + 1/interval gradient passes a step on average, and holds 2 copies of the weights: the perturbation and h.

    Args:
        base_optimizer: The optimizer that updates the weights, its name, or its config; made for
            `keras.optimizers.Muon`.
        rho: Spectral norm of each matrix's perturbation: a float >= 0 or a schedule. Start from 0.05.
        rest_ratio: Float >= 0: the radius for the rest, in multiples of `rho`. 0 leaves the rest unperturbed.
        exclude_layers: A regular expression, or a list of them, that is searched for in the variables' paths, as in
            Muon: what matches counts as the rest. `"logits"` would be the output layer, for Muon with
            `exclude_layers=["logits"]`.
        interval: Steps from one that climbs to the next, an integer >= 1.
        alpha: Float >= 0, how much of what the last climb found goes into the steps between, as in `LookSAMOptimizer`.
        name: Name of the optimizer and prefix of its variables.
        **kwargs: Other arguments of `SAMOptimizer`, without `adaptive` and `num_batch_splits`.

    Raises:
        ValueError: if an argument is out of its range; when the optimizer is built, if a pattern of `exclude_layers`
            matches no variable.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> kernel = keras.Variable(np.zeros((2, 2)), name="kernel")
        >>> optimizer = keras_sam.SpectralSAMOptimizer(keras.optimizers.SGD(0.1), rho=0.5)
        >>> optimizer.first_step([keras.ops.array([[3.0, 0.0], [0.0, 1.0]])], [kernel])
        >>> print(kernel.numpy().round(2))  # both singular values count alike
        [[0.5 0. ]
         [0.  0.5]]

    References:
        - [Bernstein and Newhouse, 2024, Old Optimizer, New Norm](https://arxiv.org/abs/2409.20325), for the geometry
        - [Liu et al., 2022, Towards Efficient and Scalable Sharpness-Aware
          Minimization](https://arxiv.org/abs/2203.02714), for the steps between
    """

    refused = LookSAMOptimizer.refused | {"adaptive": "its neighbourhood is that of the spectral norm."}

    def __init__(
        self,
        base_optimizer: Any,
        rho: Any = 0.05,
        rest_ratio: float = 1.0,
        exclude_layers: str | Sequence[str] | None = None,
        interval: int = 5,
        alpha: float = 0.1,
        name: str = "spectral_sam",
        **kwargs: Any,
    ) -> None:
        super().__init__(base_optimizer, rho, interval, alpha, name, **kwargs)
        self.rest_ratio = arguments.number("rest_ratio", rest_ratio, lambda value: value >= 0, "a float >= 0")
        self.exclude_layers = arguments.patterns("exclude_layers", exclude_layers)

    def build_slots(self, variables: list[Any]) -> None:
        """Create the slots for the perturbation and for h, and find the matrices."""
        super().build_slots(variables)
        excluded = self.matching("exclude_layers", variables, otherwise=False)
        self.is_matrix = [_is_kernel(v) and not out for v, out in zip(variables, excluded, strict=True)]

    def ascent_directions(self, gradients: Mapping[int, Any]) -> Mapping[int, Any]:
        """`U V^T` of each matrix, and the gradient of the rest at the length `rest_ratio`."""
        matrices = {i: g for i, g in gradients.items() if self.is_matrix[i]}
        rest = {i: g for i, g in gradients.items() if not self.is_matrix[i]}
        factor = self.rest_ratio / (backend.global_norm(rest.values()) + self.epsilon) if rest else 0.0
        return {i: _orthogonalized(g) for i, g in matrices.items()} | {i: factor * g for i, g in rest.items()}

    def ascent_length(self, norm: Any) -> Any:
        """`rho`, as the directions have their lengths already."""
        return self._current_rho(norm.dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return super().get_config() | {"rest_ratio": self.rest_ratio, "exclude_layers": self.exclude_layers}


def _orthogonalized(gradient: Any) -> Any:
    matrix = ops.reshape(gradient, (-1, gradient.shape[-1]))
    return ops.reshape(polar_factor(matrix), gradient.shape)


def _is_kernel(variable: Any) -> bool:
    return len(variable.shape) > 1 and variable.name not in BIAS_LIKE and "embedding" not in variable.path.lower()
