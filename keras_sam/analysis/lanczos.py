"""The method of Lanczos for several vectors in step, so that their products are computed together."""

import numpy as np

from keras_sam.analysis.trace import Products


def lanczos(products: Products, starts: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The tridiagonal matrices of a symmetric matrix in the Krylov spaces of some vectors.

    Every new vector is made orthogonal to all before it. A space that is exhausted ends in zeros, which no longer
    couple to the rest.

    Args:
        products: Of the symmetric matrix and columns.
        starts: Float64 array of shape `(size, columns)`, each column of norm 1.
        steps: At most so many, an integer >= 1.

    Returns:
        The matrices, float64 of shape `(columns, steps, steps)`, and the norms of the vectors that would come next,
        float64 of shape `(columns,)`.
    """
    size, columns = starts.shape
    basis = np.zeros((steps, size, columns), "float32")
    diagonal, beside = np.zeros((steps, columns)), np.zeros((steps, columns))
    current = starts
    for step in range(steps):
        basis[step] = current
        following = products(current)
        diagonal[step] = np.sum(current * following, axis=0)
        for _ in range(2):  # once leaves what rounding has left
            overlaps = np.einsum("kin,in->kn", basis[: step + 1], following)
            following = following - np.einsum("kn,kin->in", overlaps, basis[: step + 1])
        beside[step] = np.linalg.norm(following, axis=0)
        scale = np.max(np.abs([diagonal, beside]), axis=(0, 1))
        beside[step] = np.where(beside[step] > 1e-5 * scale, beside[step], 0.0)
        current = np.where(beside[step] > 0, following / np.maximum(beside[step], np.finfo(float).tiny), 0.0)
    matrices = np.zeros((columns, steps, steps))
    at = np.arange(steps)
    matrices[:, at, at] = diagonal.T
    matrices[:, at[:-1], at[1:]] = matrices[:, at[1:], at[:-1]] = beside[:-1].T
    return matrices, beside[-1]
