"""A progress bar over work of known or unknown length."""

import sys

import keras


class Progress:
    """Keras's bar.

    Args:
        total: Number of steps, or `None` if nobody knows.
        unit: Name of a step.
        verbose: 1 for the bar, 0 for none, `"auto"` for the bar on a terminal.
    """

    def __init__(self, total: int | None, unit: str, verbose: int | str) -> None:
        self.steps = 0
        shown = sys.stdout.isatty() if verbose == "auto" else bool(verbose)
        self._bar = keras.utils.Progbar(total, unit_name=unit, verbose=1) if shown else None

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self.steps += count
        if self._bar is not None:
            self._bar.update(self.steps)

    def end(self) -> None:
        """All is done, where nobody knew how much that is."""
        if self._bar is not None:
            self._bar.update(self.steps, finalize=True)
