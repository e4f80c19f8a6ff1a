"""The outermost eigenvalues of a symmetric matrix, from as few products as find them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Ritz values from the one that is sought most to the one that is sought least
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LA": lambda values: np.argsort(-values),
    "SA": lambda values: np.argsort(values),
    "LM": lambda values: np.argsort(-np.abs(values)),
}
SPARE = 4  # Vectors of the space beyond 2 k. Few are enough, as outer eigenvalues of networks stand well apart.


class Found(NamedTuple):
    """Eigenpairs, those that are sought most first, and whether each is found to the tolerance."""

    values: np.ndarray  # of shape (k,)
    vectors: np.ndarray  # of shape (size, k)
    residuals: np.ndarray  # of shape (k,)
    converged: np.ndarray  # of shape (k,), booleans


def outermost(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    k: int,
    which: str,
    tolerance: float,
    restarts: int,
    rng: np.random.Generator,
) -> Found:
    """The method of Lanczos with thick restarts (Wu and Simon, 2000), which looks at what it has after every product.

    The columns of V span the products of a random vector with 1, H, H², .... Each eigenpair (θ, s) of the small matrix
    V' H V makes a Ritz pair (θ, V s), whose residual ‖H V s - θ V s‖ is β |s_last|, with β the norm of what the last
    product has across V: it needs no product of its own. A space that is full is restarted with the Ritz vectors that
    are sought most, and goes on as before.
    """
    space = min(size, 2 * k + SPARE)
    basis, small = np.zeros((space, size)), np.zeros((space, space))  # V' and V' H V
    basis[0] = _across(basis[:0], rng.normal(size=size))
    count = 1
    while True:
        left = product(basis[count - 1])
        overlaps = np.zeros(count)
        for _ in range(2):  # once leaves what rounding has left
            more = basis[:count] @ left
            left = left - more @ basis[:count]
            overlaps += more
        small[count - 1, :count] = small[:count, count - 1] = overlaps
        values, parts = np.linalg.eigh(small[:count, :count])
        beta = np.linalg.norm(left) if count < size else 0.0
        order, residuals = ORDERS[which](values), beta * np.abs(parts[-1])
        sought = order[:k]
        converged = residuals[sought] <= tolerance * np.abs(values[sought])
        # Before, a vector that happens to point along inner eigenvectors would pass for one of the outermost.
        enough = count >= min(size, 2 * k + 2)
        if (enough and converged.all()) or (count == space and not restarts):
            return Found(values[sought], basis[:count].T @ parts[:, sought], residuals[sought], converged)
        if count == space:
            restarts -= 1
            kept = order[: k + (space - k) // 3]
            count = len(kept)
            basis[:count] = parts[:, kept].T @ basis
            small[:] = 0.0
            small[range(count), range(count)] = values[kept]
        exhausted = beta == 0  # the space holds its own products
        basis[count] = _across(basis[:count], rng.normal(size=size)) if exhausted else left / beta
        count += 1


def _across(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """What of a vector is orthogonal to the rows of a basis, with norm 1."""
    across = vector - (basis @ vector) @ basis
    return np.asarray(across / np.linalg.norm(across))
