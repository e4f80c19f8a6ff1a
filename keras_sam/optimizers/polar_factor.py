"""The orthogonal matrix that is nearest to a matrix, by matrix products alone."""

from typing import Any

from keras import ops

# Coefficients of p(x) = a x + b x³ + c x⁵. Muon's five steps bring singular values from 1/500 on to between 0.68 and
# 1.21, fast but no nearer to 1; three of Newton and Schulz's own then do, to rounding.
ROUGH, FINE = (3.4445, -4.7750, 2.0315), (15 / 8, -10 / 8, 3 / 8)
STEPS = (*[ROUGH] * 5, *[FINE] * 3)


def polar_factor(matrix: Any) -> Any:
    """U V^T, where U S V^T is the singular value decomposition of a matrix, by Newton-Schulz iterations.

        X <- matrix / ‖matrix‖                                   Frobenius norm
        X <- a X + b (X X^T) X + c (X X^T)² X                    eight times

    Each step does to every singular value what the polynomial a x + b x³ + c x⁵ does to a number, and leaves U and V as
    they are. Those above 1/500 of the Frobenius norm come out as 1, to rounding; smaller ones between 0 and 1, zero as
    zero. A matrix with more rows than columns is transposed for the purpose.

    Args:
        matrix: A tensor of shape `(rows, columns)`, in float32 or wider.

    Returns:
        A tensor of its shape and dtype.
    """
    rows, columns = matrix.shape
    x = ops.transpose(matrix) if rows > columns else matrix
    length = ops.norm(x)
    x = x / ops.where(length > 0, length, 1.0)
    for a, b, c in STEPS:
        square = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    return ops.transpose(x) if rows > columns else x
