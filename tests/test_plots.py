"""The plots draw what they are given; what they look like was looked at."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_sam import analysis

COORDINATES = np.linspace(-1, 1, 5)
LINE = analysis.Landscape(COORDINATES, COORDINATES**2 + 0.1)
PLANE = analysis.Landscape(COORDINATES, 3 * COORDINATES[:, None] ** 2 + COORDINATES**2 + 0.1)
WIDE = analysis.Landscape(COORDINATES, PLANE.losses / 10)
SPECTRUM = analysis.Spectrum(np.array([5.0, 2.0, -1.0]), np.eye(3), np.zeros(3), True, 20)


def axes(**options):
    return Figure().add_subplot(**options)


def test_lines_are_curves_in_one_picture(tmp_path):
    ax = axes()
    assert analysis.plot_landscape({"SGD": LINE, "SAM": LINE}, ax) is ax
    assert [line.get_label() for line in ax.lines] == ["SGD", "SAM"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([COORDINATES, LINE.losses], 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("distance along the direction", "loss")
    ax.figure.savefig(tmp_path / "lines.png")


@pytest.mark.parametrize("kind", [None, "contour", "surface"])
def test_planes_are_side_by_side_on_the_same_scale(tmp_path, kind):
    drawn = analysis.plot_landscape({"sharp": PLANE, "wide": WIDE}, kind=kind)
    assert [ax.get_title() for ax in drawn] == ["sharp", "wide"]
    limits = [(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in drawn]
    assert limits[0] == limits[1]
    assert limits[0][0] <= WIDE.losses.min() * 1.001
    assert limits[0][1] >= PLANE.losses.max() * 0.999
    drawn[0].figure.savefig(tmp_path / "planes.png")


def test_the_first_axis_of_a_plane_is_drawn_to_the_right(monkeypatch):
    ax = axes()
    seen = []
    monkeypatch.setattr(ax, "contourf", lambda x, y, z, *a, **k: (seen.append(z), ax_contourf(x, y, z, *a, **k))[1])
    ax_contourf = type(ax).contourf.__get__(ax)
    assert analysis.plot_landscape(PLANE, ax, title="one") is ax
    np.testing.assert_allclose(seen[0], PLANE.losses.T)


def test_a_loss_that_is_not_finite_or_constant_is_drawn(tmp_path):
    holes = np.where(np.eye(5), np.inf, PLANE.losses)
    for losses in (holes, np.zeros((5, 5)), np.full((5, 5), np.nan)):
        ax = analysis.plot_landscape(analysis.Landscape(COORDINATES, losses))
        ax.figure.savefig(tmp_path / "holes.png")


def test_spectrum(tmp_path):
    ax = analysis.plot_spectrum({"SGD": SPECTRUM, "SAM": SPECTRUM})
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), SPECTRUM.values)
    assert ax.get_ylabel() == "eigenvalue of the Hessian"
    ax.figure.savefig(tmp_path / "spectrum.png")


def test_training():
    history = {"loss": [2.0, 1.0], "sharpness": [0.3, 0.2]}
    assert analysis.plot_training(history, axes()).lines[0].get_ydata().tolist() == [0.3, 0.2]
    ax = analysis.plot_training({"SGD": history, "SAM": history}, measure="loss")
    assert [line.get_label() for line in ax.lines] == ["SGD", "SAM"]
    assert ax.lines[1].get_ydata().tolist() == [2.0, 1.0]
    with pytest.raises(
        ValueError, match=r"`measure` must be one of \['loss', 'sharpness'\]. Received: measure='speed'"
    ):
        analysis.plot_training(history, measure="speed")


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        (LINE, {"kind": "surface"}, "Lines are drawn with kind 'curve'"),
        (PLANE, {"kind": "curve"}, "Received: kind='curve' for results of .2. dimensions"),
        ({"a": LINE, "b": PLANE}, {}, "never both"),
        ({"a": PLANE, "b": WIDE}, {"ax": axes()}, "There must be one `ax` for each plane. Received: 1 for 2 planes"),
    ],
)
def test_what_cannot_be_drawn(results, options, message):
    with pytest.raises(ValueError, match=message):
        analysis.plot_landscape(results, **options)
