"""Pictures of ways through weight space: the path of a training, and the curve between two solutions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_sam.analysis.connection import Connection
from keras_sam.analysis.path_landscape import PathLandscape
from keras_sam.analysis.plots import _axes, _legend, _range
from keras_sam.analysis.training_path import TrainingPath

Path = PathLandscape | TrainingPath


def plot_path(results: Path | Mapping[str, Path], ax: Any = None, title: str = "") -> Any:
    """Draw the paths of trainings, each in its own plane, side by side: a circle is the start, a star the end.

    A `PathLandscape` has the loss around it, on the same logarithmic scale for all. A `TrainingPath`, which may be
    projected, is drawn alone.

    Args:
        results: One `PathLandscape` or `TrainingPath`, or several by name.
        ax: Matplotlib axes to draw in, one a result; a new figure if `None`.
        title: Name of a single result.

    Returns:
        The axes: a list of them for several results.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if there are not as many axes as results, or a path is a line.

    Examples:
        >>> import numpy as np
        >>> from keras_sam import analysis
        >>> path = analysis.TrainingPath(np.array([[3, 0, 2], [3, 0, 1], [0, 0, 1.0]]), np.arange(3), False)
        >>> ax = analysis.plot_path(path)
        >>> print(ax.get_xlabel())
        first direction (97.4% of the variance)
    """
    named = results if isinstance(results, Mapping) else {title: results}
    axes = _axes(len(named)) if ax is None else list(np.ravel(ax))
    if len(axes) != len(named):
        raise ValueError(f"There must be one `ax` for each path. Received: {len(axes)} for {len(named)} paths.")
    planes = [result for result in named.values() if isinstance(result, PathLandscape)]
    scale = _range(planes) if planes else None
    for each, (name, result) in zip(axes, named.items(), strict=True):
        if isinstance(result, TrainingPath):
            _, path, explained = result.principal_plane()
        else:
            path, explained = result.path, result.explained
            _losses(each, result, *(scale or (0.0, 1.0)))
        _path(each, path)
        ordinals = zip(("x", "y"), ("first", "second"), explained, strict=True)
        each.set(
            title=name,
            **{f"{axis}label": f"{rank} direction ({share:.1%} of the variance)" for axis, rank, share in ordinals},
        )
    return axes if isinstance(results, Mapping) else axes[0]


def plot_connection(results: Connection | Mapping[str, Connection], ax: Any = None) -> Any:
    """Draw the loss along the curve between two solutions, and, dashed, along the straight line.

    Args:
        results: What `connect` returns, or several by name.
        ax: Matplotlib axes to draw in; a new figure if `None`.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    named = results if isinstance(results, Mapping) else {"": results}
    for index, (name, result) in enumerate(named.items()):
        for way, losses, style in (("curve", result.curve, "-"), ("straight line", result.line, "--")):
            label = f"{name}: {way}" if name else way
            ax.plot(result.coordinates, losses, style, color=f"C{index}", label=label)
    ax.set(xlabel="from one solution to the other (t)", ylabel="loss")
    return _legend(ax, {"curve": None})


def _losses(ax: Any, result: PathLandscape, low: float, high: float) -> None:
    levels = np.geomspace(low, high, 17)
    losses = np.clip(result.losses.T, low, high)
    drawn = ax.contourf(result.first, result.second, losses, levels, norm="log", cmap="viridis")
    ax.contour(result.first, result.second, losses, levels[::2], colors="white", linewidths=0.5)
    bar = ax.figure.colorbar(drawn, ax=ax, label="loss", shrink=0.8, format="%.3g")
    bar.set_ticks(levels[::4])
    bar.minorticks_off()


def _path(ax: Any, path: np.ndarray) -> None:
    ax.plot(*path.T, ".-", color="C1", markersize=4, linewidth=1.2)
    edge = {"markeredgecolor": "black", "linestyle": "", "color": "white"}
    ax.plot(*path[0], "o", markersize=9, label="start", **edge)
    ax.plot(*path[-1], "*", markersize=14, label="end", **edge)
    _legend(ax, {"start": None})
