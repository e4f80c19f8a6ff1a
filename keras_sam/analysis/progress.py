"""A progress bar over work of known or unknown length."""

import keras


class Progress:
    """Keras's bar, if `verbose` is not 0.

    Args:
        total: Number of steps, or `None` if nobody knows.
        unit: Name of a step.
        verbose: 0 for silence, 1 for the bar.
    """

    def __init__(self, total: int | None, unit: str, verbose: int) -> None:
        self.steps = 0
        self._bar = keras.utils.Progbar(total, unit_name=unit, verbose=1) if verbose else None

    def step(self) -> None:
        """One more is done."""
        self.steps += 1
        if self._bar is not None:
            self._bar.update(self.steps)
