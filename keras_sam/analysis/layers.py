"""One figure for each layer of a network: where it is sharp."""

from functools import partial
from typing import Any

import keras
import numpy as np

from keras_sam.analysis.lanczos import lanczos
from keras_sam.analysis.objective import BLOCK, Objective
from keras_sam.analysis.progress import Progress
from keras_sam.analysis.results import Layers
from keras_sam.analysis.trace import Products, counted, diagonal, signs
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments

MEASURES = ("sharpness", "trace", "top_eigenvalue")


def by_layer(
    model: keras.Model,
    x: Any,
    y: Any = None,
    measure: str = "sharpness",
    rho: float = 0.05,
    adaptive: bool = False,
    samples: int = 100,
    steps: int = 20,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
    matrix: str = "hessian",
) -> Layers:
    """One figure for each layer that has trainable weights, with those of all other layers as they are.

    Args:
        model: A compiled and built Keras model. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Targets, if `x` is arrays.
        measure: `"sharpness"`, the rise of the loss after one ascent step of the layer, as `sharpness` with that
            layer's `variables`: one gradient, and one loss a layer. `"trace"`, that of the layer's block of the
            Hessian, by Hutchinson's estimate: all layers from the same products; exact with as many `samples` as the
            model has weights. `"top_eigenvalue"`, the largest one of
            that block, by the method of Lanczos: `steps` products a layer, some layers together.
        rho: Float >= 0, radius of the ball, for `"sharpness"`.
        adaptive: Whether the ball grows with the weights, for `"sharpness"`.
        samples: Number of random vectors, an integer >= 2, for `"trace"`.
        steps: Number of steps, an integer >= 1, for `"top_eigenvalue"`; `errors` shows whether they were enough.
        batch_size: Samples computed at a time, for arrays. It makes no difference to the result.
        seed: Of the random vectors.
        verbose: 1 for a progress bar, 0 for none, `"auto"` for a bar on a terminal.
        matrix: `"hessian"`, `"gauss_newton"` or `"fisher"`, as in `hessian_eigenvalues`; not for `"sharpness"`.

    Returns:
        `Layers`.

    Raises:
        ValueError: as `hessian_eigenvalues` does.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> inner, outer = (keras.layers.Dense(1, use_bias=False, name=name) for name in ("inner", "outer"))
        >>> model = keras.Sequential([keras.Input((1,)), inner, outer])
        >>> model.set_weights([np.array([[1.0]]), np.array([[3.0]])])
        >>> model.compile(loss="mse")
        >>> found = analysis.by_layer(model, np.ones((8, 1)), np.zeros((8, 1)), "trace")  # of 9 w² and of w²
        >>> print([name.split("/")[-1] for name in found.names], found.values.round(4))
        ['inner', 'outer'] [18.  2.]
    """
    if measure not in MEASURES:
        raise ValueError(f"`measure` must be one of {MEASURES}. Received: measure={measure!r}")
    rho = arguments.number("rho", rho, lambda value: value >= 0, "a float >= 0")
    arguments.number("samples", samples, lambda value: value >= 2 and value == int(value), "an integer >= 2")
    steps = arguments.positive_integer("steps", steps)
    objective = Objective(model, Batches(x, y, batch_size), None, matrix)
    parts = _parts(objective)
    rng = np.random.default_rng(seed)
    if measure == "sharpness":
        progress = Progress(len(parts), "layer", verbose)
        values, errors = _rises(objective, parts, rho, adaptive, progress), np.zeros(len(parts))
    elif measure == "trace":
        progress = Progress(min(samples, len(objective.start)), "product", verbose)
        values, errors = _traces(objective, parts, samples, rng, progress)
    else:
        progress = Progress(None, "product", verbose)
        values, errors = _top_eigenvalues(objective, parts, steps, rng, progress)
        progress.end()
    return Layers(np.array(list(parts)), values, errors, measure)


def _parts(objective: Objective) -> dict[str, np.ndarray]:
    """For each layer, by its path, which elements of a flat vector are its own."""
    sizes = [int(np.prod(shape)) for shape in objective.shapes]
    owners = np.repeat([v.path.rpartition("/")[0] or v.path for v in objective.variables], sizes)
    names = dict.fromkeys(v.path.rpartition("/")[0] or v.path for v in objective.variables)
    return {name: owners == name for name in names}


def _rises(objective: Objective, parts: Any, rho: float, adaptive: bool, progress: Progress) -> np.ndarray:
    w = objective.start
    scale = np.abs(w) if adaptive else np.ones_like(w)
    loss, slope = objective.loss(w), scale * objective.gradient(w)
    found = []
    for own in parts.values():
        length = np.linalg.norm(slope[own])
        moves = length > 0 and np.isfinite(length)
        e = rho * scale * np.where(own, slope, 0.0) / length if moves else 0.0
        found.append(max(0.0, objective.loss(w + e) - loss) if moves else 0.0)
        progress.step()
    return np.array(found)


def _traces(
    objective: Objective, parts: Any, samples: int, rng: np.random.Generator, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    rows, products = np.array(list(parts.values()), "float64"), counted(objective, progress)
    size = len(objective.start)
    if samples >= size:
        return rows @ diagonal(products, size), np.zeros(len(rows))
    found = np.concatenate([rows @ (v * products(v)) for v in signs(rng, size, samples)], axis=1)
    return found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(samples)


def _inside(products: Products, own: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Products with the block of each layer, of which a column has the vector and `own` the elements."""
    return np.where(own, products(vectors), 0.0)


def _top_eigenvalues(
    objective: Objective, parts: Any, steps: int, rng: np.random.Generator, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalue of each layer's block, and the norm of its residual."""
    masks, values, errors = np.array(list(parts.values())).T, [], []
    products = counted(objective, progress)
    for begin in range(0, masks.shape[1], BLOCK):
        own = masks[:, begin : begin + BLOCK]
        starts = np.where(own, rng.normal(size=own.shape), 0.0)
        starts /= np.linalg.norm(starts, axis=0)
        most = min(steps, int(own.sum(axis=0).max()))
        matrices, left = lanczos(partial(_inside, products, own), starts, most)
        for matrix, beyond in zip(matrices, left, strict=True):
            ended = (
                np.append(np.flatnonzero(np.diagonal(matrix, 1) == 0), most - 1)[0] + 1
            )  # where a space is exhausted
            eigenvalues, eigenvectors = np.linalg.eigh(matrix[:ended, :ended])
            values.append(eigenvalues[-1])
            errors.append(abs(beyond * eigenvectors[-1, -1]))
    return np.array(values), np.array(errors)
