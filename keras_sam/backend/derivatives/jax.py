"""JAX: forward over reverse, for all vectors of a block together."""

from collections.abc import Callable
from typing import Any

import jax

gradient = jax.grad


@jax.jit  # one call for all of them
def add(total: Any, found: Any, times: Any) -> Any:
    """`total + times * found`, of each of them."""
    return [t + times * f for t, f in zip(total, found, strict=True)]


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient, and products of the Hessian of `loss(weights, batch)` in the weights."""

    def products(weights: Any, batch: Any, vectors: Any) -> Any:
        def product(vector: Any) -> Any:
            return jax.jvp(lambda w: jax.grad(loss)(w, batch), (weights,), (vector,))[1]

        return _each(product, vectors)

    return jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(products)


def through_outputs(predict: Callable[..., Any], middle: Callable[..., Any]) -> Callable[..., Any]:
    """Products with J' M J: J is the Jacobian of `predict(weights, batch)`, `middle(outputs, tangents, batch)` is M."""

    def products(weights: Any, batch: Any, vectors: Any) -> Any:
        outputs, forward = jax.linearize(lambda w: predict(w, batch), weights)
        backward = jax.linear_transpose(forward, weights)

        def product(vector: Any) -> Any:
            (found,) = backward(middle(outputs, forward(vector), batch))
            return found

        return _each(product, vectors)

    compiled: Callable[..., Any] = jax.jit(products)
    return compiled


def _each(product: Callable[[Any], Any], vectors: Any) -> Any:
    """The products with the vectors of a block; a single one is not stacked, which would cost a twentieth."""
    if len(vectors[0]) > 1:
        return jax.vmap(product)(vectors)
    return [found[None] for found in product([vector[0] for vector in vectors])]


def missing(error: Exception) -> bool:
    """Whether JAX has found a function without a derivative."""
    text = str(error).lower()
    return any(
        words in text
        for words in ("custom_vjp", "differentiation rule", "differentiation not supported", "support jvp")
    )
