"""Predictions with weights from the posterior that Bayesian SAM has learned."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_sam import backend
from keras_sam.optimizers import BayesianSAMOptimizer, arguments
from keras_sam.optimizers.gaussian_posterior import standard_normal


@contextlib.contextmanager
def posterior_sample(model: keras.Model, seed: int | keras.random.SeedGenerator | None = None) -> Iterator[None]:
    """Let a model have weights drawn from its posterior, within a `with` block.

        w + n / sqrt(num_data * s)        n standard normal noise, s the precision that the optimizer has learned

    Afterwards, also after an exception, the weights are what they were, bit for bit; what is done to them in the block
    is lost. Nothing else is drawn or changed: batch-norm statistics are those of training.

    Args:
        model: A model compiled with `BayesianSAMOptimizer`, trained or loaded from a file.
        seed: An integer, for the same draw every time; or a `keras.random.SeedGenerator`, for another one each time.

    Raises:
        ValueError: if the model has no such optimizer, or has not been trained.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> model = keras_sam.as_sam_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> model.compile(keras_sam.BayesianSAMOptimizer("sgd", num_data=8), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
        >>> before = model.predict(np.ones((1, 4)), verbose=0)
        >>> with keras_sam.posterior_sample(model, seed=1):
        ...     drawn = model.predict(np.ones((1, 4)), verbose=0)
        >>> bool(drawn == before), bool(model.predict(np.ones((1, 4)), verbose=0) == before)
        (False, True)

    References:
        [Möllenhoff and Khan, 2022](https://arxiv.org/abs/2210.01620)
    """
    optimizer = _optimizer_of(model)
    generator = seed if isinstance(seed, keras.random.SeedGenerator) else keras.random.SeedGenerator(seed)
    moving = [i for i, slot in enumerate(optimizer.perturbations) if slot is not None]
    variables = [optimizer._trainable_variables[i] for i in moving]
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    try:
        noise = standard_normal(variables, optimizer._working_dtype, generator)
        drawn = optimizer.posterior.spread(moving, noise)
        for variable, w, e in zip(variables, backend.values(variables), drawn, strict=True):
            variable.assign(keras.ops.cast(keras.ops.cast(w, e.dtype) + e, variable.dtype))
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def posterior_predict(
    model: keras.Model,
    x: Any,
    samples: int = 10,
    batch_size: int | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Any:
    """The mean prediction over several draws of the weights from the posterior, which is the better calibrated one.

    The mean is that of the model's outputs: for probabilities let it end in a `softmax` or `sigmoid`. For the spread,
    or the mean of something else, predict within `posterior_sample`.

    Args:
        model: A model compiled with `BayesianSAMOptimizer`, trained or loaded from a file. Its weights are as before
            afterwards.
        x: What `model.predict` takes, other than an iterator, which could be gone through once only.
        samples: Number of draws, an integer >= 1. Each costs one prediction.
        batch_size: As in `model.predict`.
        seed: An integer, for the same draws every time; or a `keras.random.SeedGenerator`.

    Returns:
        What `model.predict` returns, averaged: an array of shape `(samples of x, ...)`, or several, nested as the
        model's outputs are.

    Raises:
        ValueError: if an argument is out of its range, or the model has no such optimizer or has not been trained.

    Examples:
        >>> import keras, keras_sam, numpy as np
        >>> inputs = keras.Input((4,))
        >>> outputs = keras.layers.Dense(3, activation="softmax")(inputs)
        >>> model = keras_sam.as_sam_model(keras.Model(inputs, outputs))
        >>> model.compile(keras_sam.BayesianSAMOptimizer("sgd", num_data=8), loss="sparse_categorical_crossentropy")
        >>> history = model.fit(np.ones((8, 4)), np.zeros(8), verbose=0)
        >>> probabilities = keras_sam.posterior_predict(model, np.ones((2, 4)), samples=5, seed=1)
        >>> probabilities.shape, bool(np.allclose(probabilities.sum(axis=-1), 1.0))
        ((2, 3), True)

    References:
        [Möllenhoff and Khan, 2022](https://arxiv.org/abs/2210.01620)
    """
    samples = arguments.positive_integer("samples", samples)
    if isinstance(x, Iterator):
        raise ValueError(
            f"`x` is gone through for each draw, which an iterator cannot be: pass a list. Received: x={x!r}"
        )
    generator = seed if isinstance(seed, keras.random.SeedGenerator) else keras.random.SeedGenerator(seed)
    total: Any = None
    for _ in range(samples):
        with posterior_sample(model, generator):
            outputs = model.predict(x, batch_size=batch_size, verbose=0)
        total = outputs if total is None else keras.tree.map_structure(np.add, total, outputs)
    return keras.tree.map_structure(lambda each: each / samples, total)


def _optimizer_of(model: keras.Model) -> BayesianSAMOptimizer:
    """The optimizer that knows the posterior, built."""
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, BayesianSAMOptimizer):
        raise ValueError(
            "The posterior of the weights is what `BayesianSAMOptimizer` learns: compile the model with it, and train "
            f"it, or load it from a file with its optimizer. Received: a model with optimizer={optimizer!r}"
        )
    if not optimizer.built:
        raise ValueError(f"Nothing has been learned yet: train the model first. Received: model={model!r}")
    return optimizer
