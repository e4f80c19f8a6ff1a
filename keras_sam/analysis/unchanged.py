"""A model that trains and comes out as it went in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops


class Start:
    """The state from which each training begins."""

    def __init__(self, model: Any) -> None:
        every = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self.variables = list({id(v): v for v in every}.values())
        self.values = [np.array(ops.convert_to_numpy(v)) for v in self.variables]

    def restore(self) -> None:
        """Put it back."""
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[Start]:
    """Let the model be as it was afterwards."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    names = {model: ("train_function", "_compiled_steps", "stop_training"), optimizer: ("_rho", "_training")}
    before = {each: {name: getattr(each, name) for name in of_it} for each, of_it in names.items()}
    history = vars(model).get("history")
    start = Start(model)
    try:
        yield start
    finally:
        model.reset_metrics()  # of which the first training may have created some
        start.restore()
        for each, values in before.items():
            for name, value in values.items():
                setattr(each, name, value)
        model.history = history
