"""Spectral densities drawn: one width for all runs, an axis that ends below one eigenvalue, the largest marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.common import a_record
from matplotlib.figure import Figure

from smoothout.analysis.hessian import Spectrum
from smoothout.reproduction.panel_kinds import spectrum
from smoothout.results.figures.curves import RunLabel
from smoothout.results.figures.spectra import WIDTH
from smoothout.results.records import Record

N = 50
SB, LB = RunLabel("SB", 0), RunLabel("LB", 1)


def hessian(bulk: float, top: list[float], converged: bool = True) -> Record:
    """A spectrum with 0.9 of its eigenvalues at ``bulk`` and 0.1 at the largest of ``top``, the same for two probes."""
    ritz = {"ritz": [[bulk, max(top, default=0.0)]] * 2, "weights": [[0.9, 0.1]] * 2, "dimension": N, "products": 4}
    words = {"converged": converged, "status": "converged" if converged else "1 of 2 converged in 3 restarts"}
    found = {"values": top, "residuals": [0.0] * len(top), "dimension": N, "products": 9, **words}
    return a_record("hessian", {"eigenvalues": found, "spectrum": ritz, "dimension": N})


@pytest.fixture
def axes() -> Any:
    return Figure().subplots()


def labeled(axes: Any) -> dict[str, Any]:
    return {drawn.get_label(): drawn for drawn in axes.get_lines()}


def test_each_line_is_the_recorded_density_smoothed_by_one_width_for_all_runs(axes):
    records = [(SB, hessian(0.0, [2.0, 1.0])), (LB, hessian(-1.0, [9.0]))]
    spectrum(axes, records)
    drawn, width = labeled(axes), WIDTH * 10.0
    for run, record in records:
        grid, heights = drawn[run.name].get_data()
        assert (grid[0], grid[-1]) == pytest.approx((-1.0 - 5 * width, 9.0 + 5 * width))
        expected = Spectrum(**record.outcome["spectrum"]).density(grid, width)
        np.testing.assert_allclose(heights, expected, rtol=1e-12)
        assert heights.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
    assert axes.get_yscale() == "log"
    assert axes.get_xlim() == pytest.approx((-1.5, 9.5))
    assert "0.1" in axes.get_xlabel()


def test_the_largest_eigenvalues_are_marked_each_run_in_a_row_and_colour_of_its_own(axes):
    spectrum(axes, [(SB, hessian(0.0, [2.0, 1.0])), (LB, hessian(0.0, [9.0]))])
    drawn = labeled(axes)
    small, large = drawn["SB, largest: up to 2"], drawn["LB, largest: up to 9"]
    assert list(small.get_xdata()) == [2.0, 1.0]
    assert list(large.get_xdata()) == [9.0]
    assert small.get_ydata()[0] != large.get_ydata()[0]
    assert (small.get_color(), large.get_color()) == (drawn["SB"].get_color(), drawn["LB"].get_color())
    assert small.get_color() != large.get_color()
    assert drawn["SB"].get_linestyle() != drawn["LB"].get_linestyle()


def test_seeds_are_their_mean_in_a_band_and_share_their_marks(axes):
    spectrum(axes, [(SB, hessian(0.0, [4.0])), (SB, hessian(1.0, [3.0]))])
    drawn = labeled(axes)
    grid, heights = drawn["SB"].get_data()
    width = WIDTH * 4.0
    ritz = (([0.0, 4.0], [0.9, 0.1]), ([1.0, 3.0], [0.9, 0.1]))
    each = [Spectrum((v,), (w,), N, 0).density(grid, width) for v, w in ritz]
    np.testing.assert_allclose(heights, np.mean(each, axis=0), rtol=1e-12)
    assert len(axes.collections) == 1
    assert list(drawn["SB, largest: up to 4"].get_xdata()) == [4.0, 3.0]
