"""Losses as shapes: planes with gaps, and the toy of Figure 1."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.common import a_record
from matplotlib.figure import Figure

from smoothout.results.figures import surfaces
from smoothout.results.figures.curves import RunLabel


@pytest.fixture
def plane() -> list:
    losses = [[0.01 * (1 + i + 10 * j) for j in range(4)] for i in range(3)]
    losses[0][0] = None
    outcome = {"alphas": [-1.0, 0.0, 1.0], "betas": [-1.0, -0.5, 0.5, 1.0], "losses": losses}
    return [(RunLabel("SB", 0), a_record("plane", outcome))]


def test_contours_have_alpha_across_and_beta_up_and_levels_that_pictures_share(plane):
    axes = Figure().subplots()
    surfaces.contours(axes, plane)
    filled = axes.collections[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-1.0, 1.0), (-1.0, 1.0))
    assert filled.levels[0] == pytest.approx(np.log10(1e-4))
    assert filled.levels[-1] == pytest.approx(np.log10(1e2))
    assert "alpha" in axes.get_xlabel()


def test_contours_take_the_losss_logarithm_to_be_linear_between_points_and_name_the_loss():
    """Losses of 10^-alpha: every decade lies at a whole alpha, however coarse the grid."""
    outcome = {"alphas": [-1.5, 0.5, 2.5], "betas": [0.0, 1.0], "losses": [[10.0**-a] * 2 for a in (-1.5, 0.5, 2.5)]}
    axes = Figure().subplots()
    surfaces.contours(axes, [(RunLabel("SB", 0), a_record("plane", outcome))])
    decades = axes.collections[-1]
    places = [path.vertices[:, 0].mean() for path in decades.get_paths() if len(path.vertices)]
    assert sorted(places) == pytest.approx([-1.0, 0.0, 1.0, 2.0])
    assert {text.get_text() for text in axes.texts} <= {"0.01", "0.1", "1", "10"}


def test_a_surface_has_a_row_a_beta_and_the_logarithm_of_the_loss(plane):
    axes = Figure().add_subplot(projection="3d")
    drawn = []
    axes.plot_surface = lambda *given, **_: drawn.append(given)
    surfaces.surface(axes, plane)
    across, along, heights = drawn[0]
    assert across.shape == along.shape == heights.shape == (4, 3)
    assert heights[3, 1] == pytest.approx(np.log10(0.01 * (1 + 1 + 30)))
    assert (across[3, 1], along[3, 1]) == (0.0, 1.0)
    assert np.isnan(heights[0, 0])


def test_the_toy_shows_four_copies_their_mean_and_the_expectation():
    loss, copies = Figure().subplots(1, 2)
    w = np.linspace(-1, 1, 5)
    surfaces.toy_loss(loss, w, w**2)
    surfaces.toy_copies(copies, w, np.array([w + i for i in range(10)]), w, w)
    assert len(loss.get_lines()) == 1
    assert len(copies.get_lines()) == 4 + 1 + 1
    assert [text.get_text() for text in copies.get_legend().get_texts()] == [
        "4 of the 10 shifted copies",
        "mean of the 10",
        "expectation",
    ]
