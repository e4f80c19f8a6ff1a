"""What the model itself says: its loss and metrics, and what it is."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sam.analysis.objective import Objective, full_precision
from keras_sam.models.batches import Batches


def evaluated(model: keras.Model, batches: Batches) -> dict[str, float]:
    """What `model.evaluate` gives: the loss, and the metrics that the model was compiled with."""
    objective = Objective(model, batches)
    found = {"loss": objective.loss(objective.start)}
    if not np.isfinite(found["loss"]):
        raise ValueError(f"The loss must be finite to be measured. Received: {found['loss']} of {model!r}")
    logs: dict[str, Any] = {}
    with keras.StatelessScope(), full_precision(model):  # in which metrics are updated, and the model keeps its own
        model.reset_metrics()
        for (x, y, sample_weight), _ in batches:
            logs = model.compute_metrics(x, y, objective._predict(x), sample_weight)
        values = {name: np.asarray(ops.convert_to_numpy(value)) for name, value in logs.items() if name != "loss"}
    return found | {name: float(value) for name, value in values.items() if value.ndim == 0}


def described(model: keras.Model) -> dict[str, Any]:
    """What the model is, and what it was trained with."""
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return {
        "class": type(model).__name__,
        "parameters": model.count_params(),
        "trainable parameters": trainable,
        "optimizer": _optimizer(model.optimizer),
        "loss": _loss(model.loss),
    }


def judges_classes(model: keras.Model) -> bool:
    """Whether loss or metrics are those of a classifier."""
    said = " ".join([_loss(model.loss), *(metric.name for metric in _metrics(model))]).lower().replace("_", "")
    return "crossentropy" in said or "accuracy" in said


def _metrics(model: keras.Model) -> list[Any]:
    return [each for metric in model.metrics for each in (metric, *getattr(metric, "metrics", []))]


def _loss(loss: Any) -> str:
    return ", ".join(_name(each) for each in keras.tree.flatten(loss))


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))


def _optimizer(optimizer: Any) -> str:
    if optimizer is None:
        return "none"
    name, base = type(optimizer).__name__, getattr(optimizer, "base_optimizer", None)
    if base is None:
        return f"{name}(learning_rate={float(ops.convert_to_numpy(optimizer.learning_rate)):g})"
    rho = f"{optimizer.rho:g}" if isinstance(optimizer.rho, float) else type(optimizer.rho).__name__
    return f"{name}(rho={rho}) around {_optimizer(base)}"
