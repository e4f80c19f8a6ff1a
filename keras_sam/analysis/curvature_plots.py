"""Pictures of curvature: how eigenvalues are spread, and which layers are sharp."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_sam.analysis.density import of_width
from keras_sam.analysis.plots import _axes, _legend
from keras_sam.analysis.results import Density, Layers


def plot_density(results: Density | Mapping[str, Density], ax: Any = None) -> Any:
    """Draw the density of eigenvalues on a logarithmic scale, with a band of one standard error.

    Several are drawn with the largest `sigma` among them: of two that differ in it one would look the smoother.

    Args:
        results: One `Density`, or several by name.
        ax: Matplotlib axes to draw in; a new figure if `None`.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.

    Examples:
        >>> import numpy as np
        >>> from keras_sam import analysis
        >>> grid, one = np.linspace(-3, 3, 50), np.ones((2, 1))
        >>> bell = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
        >>> ax = analysis.plot_density(analysis.Density(grid, bell, 0.1 * bell, 0 * one, one, 1.0, 2))
        >>> print(ax.get_xlabel())
        eigenvalue
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    named = results if isinstance(results, Mapping) else {"": results}
    sigma = max(result.sigma for result in named.values())
    named = {
        name: d if d.sigma == sigma else of_width(sigma, d.nodes, d.weights, len(d.grid), d.products)
        for name, d in named.items()
    }
    floor = min(_one_eigenvalue(result) for result in named.values()) / 10
    for name, result in named.items():
        (line,) = ax.plot(result.grid, np.maximum(result.density, floor), label=name)
        below, above = (result.density + sign * result.standard_error for sign in (-1, 1))
        band = np.maximum(below, floor), np.maximum(above, floor)
        ax.fill_between(result.grid, *band, color=line.get_color(), alpha=0.25, linewidth=0)
    ax.axvline(0.0, color="gray", linewidth=0.8)
    ax.set(xlabel="eigenvalue", ylabel="density", yscale="log", ylim=(floor, None))
    return _legend(ax, named)


def plot_layers(results: Layers | Mapping[str, Layers], ax: Any = None) -> Any:
    """Draw a bar for each layer, the first layer on top, with its error.

    Args:
        results: One `Layers`, or several of the same layers and the same measure by name.
        ax: Matplotlib axes to draw in; a new figure if `None`.

    Returns:
        The axes.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the results are not of the same number of layers, or not of the same measure.

    Examples:
        >>> import numpy as np
        >>> from keras_sam import analysis
        >>> found = analysis.Layers(np.array(["hidden", "out"]), np.array([1.0, 2.0]), np.zeros(2), "trace")
        >>> ax = analysis.plot_layers({"SGD": found, "SAM": found})
        >>> print(ax.get_xlabel())
        trace
    """
    (ax,) = _axes(1) if ax is None else (ax,)
    named = results if isinstance(results, Mapping) else {"": results}
    kinds = {(result.measure, len(result.names)) for result in named.values()}
    if len(kinds) > 1:
        raise ValueError(
            "`results` must be of the same measure and of networks with as many layers. "
            f"Received: {sorted(kinds)} as measures and numbers of layers"
        )
    first = next(iter(named.values()))
    places, height = np.arange(len(first.names)), 0.8 / len(named)
    for index, (name, result) in enumerate(named.items()):
        at = places + (index - (len(named) - 1) / 2) * height
        ax.barh(at, result.values, height, xerr=result.errors if result.errors.any() else None, label=name)
    ax.set_yticks(places, first.names)
    ax.invert_yaxis()
    ax.set(xlabel=first.measure.replace("_", " "))
    return _legend(ax, named)


def _one_eigenvalue(result: Density) -> float:
    """The height of the smallest weight that a probe saw: what is below is no more than the tail of a bell."""
    seen = result.weights[result.weights > 1e-9]
    return float(seen.min() / len(result.weights) / (result.sigma * np.sqrt(2 * np.pi)))
