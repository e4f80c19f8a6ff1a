"""Pictures of calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_sam.analysis.plots import _axes, _legend
from keras_sam.analysis.results import Calibration


def plot_reliability(results: Calibration | Mapping[str, Calibration], ax: Any = None, title: str = "") -> Any:
    """Draw reliability diagrams: the accuracy of each bin against its confidence, with the gap to the diagonal.

    Below the diagonal a model is surer than it should be, above it less sure than it could be. The title has the
    expected calibration error (ECE). The bins have equally many samples each, so they crowd where the model is mostly.

    Args:
        results: What `calibration` returns, or several by name, which are drawn side by side on the same scale.
        ax: Matplotlib axes to draw in, one a result; a new figure if `None`.
        title: Name of a single result.

    Returns:
        The axes: a list of them for several results.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if there are not as many axes as results.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_sam import analysis
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
        >>> found = analysis.calibration(model, np.log([[0.8, 0.2]] * 4), np.array([0, 0, 0, 1]), bins=1)
        >>> print(analysis.plot_reliability(found, title="always 80%").get_title())
        always 80%: ECE 5.0%
    """
    named = results if isinstance(results, Mapping) else {title: results}
    axes = _axes(len(named)) if ax is None else list(np.ravel(ax))
    if len(axes) != len(named):
        raise ValueError(f"There must be one `ax` for each result. Received: {len(axes)} for {len(named)} results.")
    lowest = min(min(result.confidences.min(), result.accuracies.min()) for result in named.values())
    low = max(0.0, float(np.floor(10 * lowest) / 10))
    for each, (name, result) in zip(axes, named.items(), strict=True):
        each.plot([low, 1], [low, 1], "--", color="gray", label="as sure as it is right")
        each.vlines(result.confidences, result.confidences, result.accuracies, color="C3", alpha=0.4, linewidth=3)
        each.plot(result.confidences, result.accuracies, "o-", color="C0", label="bins of the samples")
        error = f"ECE {result.expected_calibration_error:.1%}"
        each.set(title=f"{name}: {error}" if name else error, xlabel="confidence", ylabel="accuracy")
        each.set(xlim=(low, 1.02), ylim=(low, 1.02), aspect="equal")
        _legend(each, {"bins": None})
    return axes if isinstance(results, Mapping) else axes[0]
