"""TensorFlow: reverse over reverse in graphs, which leave out what a result does not need; one vector at a time."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of a scalar `function(tensors, ...)` in a list of tensors."""

    def of_tensors(tensors: Any, *more: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(tensors, *more)
        return _dense(tape, value, tensors)

    return of_tensors


def add(total: Any, found: Any, times: Any) -> Any:
    """`total + times * found`, of each of them."""
    return [t + times * f for t, f in zip(total, found, strict=True)]


def differentiate(loss: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Value, gradient, and products of the Hessian of `loss(weights, batch)` in the weights."""

    @_compiled
    def product(weights: Any, batch: Any, vector: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            slopes = gradient(loss)(weights, batch)
        return _dense(tape, slopes, weights, vector)

    return _compiled(loss), _compiled(gradient(loss)), _one_by_one(product)


def through_outputs(predict: Callable[..., Any], middle: Callable[..., Any]) -> Callable[..., Any]:
    """Products with J' M J: J is the Jacobian of `predict(weights, batch)`, `middle(outputs, tangents, batch)` is M.

    `J v` is the derivative of `J' u · v` in `u`, at any `u`.
    """

    @_compiled
    def product(weights: Any, batch: Any, vector: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(weights)
            outputs = predict(weights, batch)
        with tf.GradientTape() as outer:
            u = [tf.zeros_like(output) for output in outputs]
            outer.watch(u)
            slopes = _dense(tape, outputs, weights, u)
        tangents = _dense(outer, slopes, u, vector)
        # Loss functions of Keras look for the softmax that made a tensor; they shall take this one as it is.
        at = [tf.identity(output) for output in outputs]
        return _dense(tape, outputs, weights, middle(at, tangents, batch))

    return _one_by_one(product)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = tf.function(function, reduce_retracing=True)
    return compiled


def _one_by_one(product: Callable[..., Any]) -> Callable[..., Any]:
    def products(weights: Any, batch: Any, vectors: Any) -> Any:
        each = zip(*(tf.unstack(stacked) for stacked in vectors), strict=True)
        found = [product(weights, batch, list(vector)) for vector in each]
        return [tf.stack(parts) for parts in zip(*found, strict=True)]

    return products


def _dense(tape: Any, target: Any, sources: Any, cotangents: Any = None) -> Any:
    zero = tf.UnconnectedGradients.ZERO
    found = tape.gradient(target, sources, output_gradients=cotangents, unconnected_gradients=zero)
    return [tf.convert_to_tensor(g) for g in found]


def missing(error: Exception) -> bool:
    """Whether TensorFlow has found an operation without a gradient."""
    return "gradient registry has no entry" in str(error) or "No gradient defined for operation" in str(error)
