"""Pictures of what was measured. Each takes one result, or several by name, and axes, and returns the axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_sam.analysis.results import Landscape, RhoSweep, Spectrum


def plot_landscape(
    results: Landscape | Mapping[str, Landscape], ax: Any = None, kind: str | None = None, title: str = ""
) -> Any:
    """Draw loss landscapes: lines as curves in one picture, planes side by side on the same scale of losses.

    Args:
        results: One `Landscape`, or several of the same dimension by name.
        ax: Matplotlib axes to draw in: one for curves; for planes one a result, with `projection="3d"` for
            surfaces. With `None` a new figure is made.
        kind: `"curve"` for lines; `"contour"` (the default) or `"surface"` for planes.
        title: Name of a single plane.

    Returns:
        The axes: a list of them for several planes.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the results do not have the same dimension, `kind` does not fit them, or there are not as many
            axes as planes.

    Examples:
        >>> import numpy as np
        >>> from keras_sam import analysis
        >>> line = analysis.Landscape(np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]))
        >>> ax = analysis.plot_landscape({"SGD": line, "SAM": line})
        >>> print(ax.get_ylabel())
        loss
    """
    named = results if isinstance(results, Mapping) else {title: results}
    dimensions = {result.losses.ndim for result in named.values()}
    kinds = {1: ("curve",), 2: ("contour", "surface")}[max(dimensions)]
    if len(dimensions) > 1 or kind not in (None, *kinds):
        raise ValueError(
            "Lines are drawn with kind 'curve', planes with 'contour' or 'surface', never both. "
            f"Received: kind={kind!r} for results of {sorted(dimensions)} dimensions."
        )
    if kinds == ("curve",):
        return _curves(named, ax)
    surface = kind == "surface"
    axes = _axes(len(named), "3d" if surface else None) if ax is None else list(np.ravel(ax))
    if len(axes) != len(named):
        raise ValueError(f"There must be one `ax` for each plane. Received: {len(axes)} for {len(named)} planes.")
    low, high = _range(named.values())
    for each, (name, result) in zip(axes, named.items(), strict=True):
        (_surface if surface else _contour)(each, result, low, high)
        each.set(title=name, xlabel="first direction", ylabel="second direction")
    return axes if isinstance(results, Mapping) else axes[0]


def plot_spectrum(results: Spectrum | Mapping[str, Spectrum], ax: Any = None) -> Any:
    """Draw the eigenvalues of Hessians beside each other, the largest first.

    Args:
        results: One `Spectrum`, or several by name.
        ax: Matplotlib axes to draw in; a new figure if `None`.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    named = results if isinstance(results, Mapping) else {"": results}
    for name, result in named.items():
        ax.plot(np.arange(1, len(result.values) + 1), result.values, "o-", label=name)
    ax.axhline(0.0, color="gray", linewidth=0.8)
    ax.set(xlabel="rank", ylabel="eigenvalue of the Hessian")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _legend(ax, named)


def plot_training(histories: Any, ax: Any = None, measure: str = "sharpness") -> Any:
    """Draw one figure of the training logs by epoch.

    Args:
        histories: What `fit` returns, or its `history` dict, or several of either by name: a dict whose values are
            not lists of numbers.
        ax: Matplotlib axes to draw in; a new figure if `None`.
        measure: Which log to draw.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if a history does not have `measure`.
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    several = isinstance(histories, Mapping) and not all(isinstance(v, Sequence) for v in histories.values())
    named = histories if several else {"": histories}
    for name, history in named.items():
        logs = getattr(history, "history", history)
        if measure not in logs:
            raise ValueError(f"`measure` must be one of {sorted(logs)}. Received: measure={measure!r}")
        ax.plot(np.arange(1, len(logs[measure]) + 1), logs[measure], label=name)
    ax.set(xlabel="epoch", ylabel=measure.replace("_", " "))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _legend(ax, named)


def plot_rho_sweep(result: RhoSweep, ax: Any = None) -> Any:
    """Draw the last figures of training and validation against the radius; crosses are trainings that collapsed.

    Args:
        result: What `find_rho` returns.
        ax: Matplotlib axes to draw in; a new figure if `None`.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    places = np.arange(len(result.rhos))  # radii go by factors, and 0 has a place too
    for name, rows, color in (("train", result.train, "C0"), ("validation", result.validation, "C1")):
        last = np.array([row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in rows])
        ax.plot(places, last, "o-", color=color, label=name)
        ax.plot(places[result.collapsed], last[result.collapsed], "x", color="red", markersize=12, markeredgewidth=2)
    if result.collapsed.any():
        ax.plot([], [], "x", color="red", markersize=12, markeredgewidth=2, label="collapsed")
    ax.axvline(int(np.flatnonzero(result.rhos == result.rho)[0]), color="gray", linestyle="--", label="recommended")
    ax.set_xticks(places, [f"{rho:g}" for rho in result.rhos])
    ax.set(xlabel="rho", ylabel=result.monitor.removeprefix("val_").replace("_", " "))
    return _legend(ax, {"train": None})


def _curves(named: Mapping[str, Landscape], ax: Any) -> Any:
    (ax,) = _axes(1) if ax is None else (ax,)
    for name, result in named.items():
        ax.plot(result.coordinates, result.losses, label=name)
    ax.set(xlabel="distance along the direction", ylabel="loss")
    return _legend(ax, named)


def _contour(ax: Any, result: Landscape, low: float, high: float) -> None:
    levels = np.geomspace(low, high, 17)
    losses = np.clip(result.losses.T, low, high)
    drawn = ax.contourf(result.coordinates, result.coordinates, losses, levels, norm="log", cmap="viridis")
    ax.contour(result.coordinates, result.coordinates, losses, levels[::2], colors="white", linewidths=0.5)
    ax.plot(0, 0, "r+", markersize=10)
    ax.set_aspect("equal")
    bar = ax.figure.colorbar(drawn, ax=ax, label="loss", shrink=0.8, format="%.3g")
    bar.set_ticks(levels[::4])
    bar.minorticks_off()


def _surface(ax: Any, result: Landscape, low: float, high: float) -> None:
    first, second = np.meshgrid(result.coordinates, result.coordinates)
    losses = np.clip(result.losses.T, low, high)
    ax.plot_surface(first, second, losses, cmap="viridis", vmin=low, vmax=high)
    ax.set(zlim=(low, high), zlabel="loss")
    ax.locator_params(nbins=5)  # labels in perspective need room


def _range(results: Any) -> tuple[float, float]:
    """The least and the largest finite loss of all; positive, for a logarithmic scale."""
    losses = np.concatenate([np.ravel(result.losses) for result in results])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    if not losses.size:
        return 1e-3, 1.0
    low, high = float(losses.min()), float(losses.max())
    return (low, high) if high > low else (low, 1.01 * low)


def _axes(columns: int, projection: str | None = None) -> list[Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "keras_sam[plot]"') from error
    figure = Figure(figsize=(5.5 * columns, 4.5), layout="constrained")
    return list(np.ravel(figure.subplots(1, columns, subplot_kw={"projection": projection})))


def _legend(ax: Any, named: Mapping[str, Any]) -> Any:
    ax.grid(alpha=0.3)
    if any(named):
        ax.legend()
    return ax
