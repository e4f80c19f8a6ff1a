"""How far the probabilities of a classifier can be believed."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.analysis.results import Calibration
from keras_sam.models.batches import Batches
from keras_sam.optimizers import arguments

TINY = float(np.finfo("float32").tiny)  # stands for a probability of 0, whose logarithm has no end


def calibration(
    model: keras.Model,
    x: Any,
    y: Any = None,
    bins: int = 15,
    batch_size: int = 32,
    from_logits: bool | None = None,
) -> Calibration:
    r"""Calibration of a classifier: whether it is right as often as it says it is.

    With p_i the probabilities for sample i, c_i = max p_i its confidence, and a_i whether the class it names is right:

        expected calibration error   sum over bins b of  n_b/n |mean of a_i in b - mean of c_i in b|
        log-likelihood               mean of  log p_i[y_i]
        Brier score                  mean of  sum over classes k of (p_i[k] - [k = y_i])²

    The bins have equally many samples each, sorted by confidence. Sample weights weigh all means.

    Args:
        model: A built Keras classifier. It is not changed.
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list of batches.
        y: Labels, if `x` is arrays: integers of shape `(n,)` or `(n, 1)`, or one-hot vectors of shape `(n, classes)`.
        bins: Number of bins, an integer >= 1; as many as there are samples if there are fewer.
        batch_size: Samples computed at a time, for arrays.
        from_logits: Whether the model answers with logits instead of probabilities. With `None` what the loss says
            that it was compiled with; if that says nothing, probabilities.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: if an argument is out of its range, the model has not one vector of outputs for a sample, or these
            or the labels are not what they should be.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
        >>> found = analysis.calibration(model, np.log([[0.8, 0.2]] * 4), np.array([0, 0, 0, 1]), bins=1)
        >>> print(round(found.expected_calibration_error, 4), round(found.brier_score, 4), found.accuracy)
        0.05 0.38 0.75

    References:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599); bins of equal mass:
        [Nixon et al., 2019](https://arxiv.org/abs/1904.01685)
    """
    bins = arguments.positive_integer("bins", bins)
    outputs, labels, weights = _predictions(model, Batches(x, y, batch_size))
    if from_logits is None:
        from_logits = bool(getattr(getattr(model, "loss", None), "from_logits", False))
    log_p = _log_probabilities(outputs, from_logits)
    labels = _integers(labels, log_p.shape)
    p, right = np.exp(log_p), log_p.argmax(1) == labels
    confidence = p.max(1)
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(labels)))
    mass = np.array([weights[part].sum() for part in parts]) / weights.sum()
    parts, mass = [part for part, share in zip(parts, mass, strict=True) if share], mass[mass > 0]
    confidences, accuracies = (
        np.array([np.average(of_all[part], weights=weights[part]) for part in parts]) for of_all in (confidence, right)
    )
    of_label = log_p[np.arange(len(labels)), labels]
    squares = np.sum((p - np.eye(p.shape[1])[labels]) ** 2, axis=1)
    return Calibration(
        expected_calibration_error=float(mass @ np.abs(accuracies - confidences)),
        log_likelihood=float(np.average(of_label, weights=weights)),
        brier_score=float(np.average(squares, weights=weights)),
        accuracy=float(np.average(right, weights=weights)),
        confidences=confidences,
        accuracies=accuracies,
        mass=mass,
        samples=len(labels),
    )


def _predictions(model: keras.Model, batches: Batches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs in float64, labels and weights of all samples."""
    found = []
    for (x, y, sample_weight), samples in batches:
        output = model.predict_on_batch(x)
        if not hasattr(output, "shape") or len(output.shape) != 2:
            shapes = keras.tree.map_structure(lambda leaf: tuple(leaf.shape), output)
            raise ValueError(
                "The model must answer each sample with one vector, of logits or probabilities; for one of several "
                f"outputs, build a `keras.Model` that has it alone. Received: outputs of shape {shapes}"
            )
        if y is None:
            raise ValueError("There must be labels. Received: y=None")
        weights = np.ones(samples) if sample_weight is None else ops.convert_to_numpy(sample_weight)
        found.append((np.asarray(output, "float64"), ops.convert_to_numpy(y), np.ravel(weights).astype("float64")))
    if not found:
        raise ValueError("There must be at least one sample. Received: no batches.")
    outputs, labels, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return outputs, labels, weights


def _log_probabilities(outputs: np.ndarray, from_logits: bool) -> np.ndarray:
    """Of each class, `(n, classes)`; one output is the logit or the probability of the second of two."""
    one = outputs.shape[1] == 1
    if from_logits:
        logits = np.hstack([np.zeros_like(outputs), outputs]) if one else outputs
        logits = logits - logits.max(1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    p = np.hstack([1 - outputs, outputs]) if one else outputs
    if not (p.min() >= 0 and np.abs(p.sum(1) - 1).max() < 0.01):  # half precision is no better
        raise ValueError(
            "The outputs must be probabilities: not negative, with a sum of 1. If the model answers with logits, pass "
            f"`from_logits=True`. Received: outputs from {outputs.min():.4g} to {outputs.max():.4g}"
        )
    return np.asarray(np.log(np.maximum(p / p.sum(1, keepdims=True), TINY)))


def _integers(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The label of each sample, from integers or one-hot vectors."""
    samples, classes = shape
    one_hot = labels.shape == shape and classes > 1
    found = labels.argmax(1) if one_hot else labels.reshape(-1).astype("int64")
    if len(found) != samples or found.min() < 0 or found.max() >= classes:
        raise ValueError(
            f"The labels must be integers from 0 to {classes - 1}, or one-hot vectors of {classes}, one for each of "
            f"{samples} samples. Received: shape {labels.shape}, from {labels.min()} to {labels.max()}"
        )
    return np.asarray(found)
