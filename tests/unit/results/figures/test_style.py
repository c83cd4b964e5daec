"""The look of all figures: numbers on logarithmic axes."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from smoothout.results.figures.style import plain_log

EVERY_TICK = ["0.09", "0.1"] if mpl.__version_info__ >= (3, 11) else ["0.09", "0.1", "0.11", "0.12", "0.13"]


@pytest.mark.parametrize(
    ("limits", "labels"),
    [
        ((0.083, 0.13), EVERY_TICK),  # half a decade at most
        ((12, 400), ["20", "50", "100", "200"]),
        ((0.9, 20), ["1", "2", "5", "10", "20"]),
        ((0.03, 30), ["0.1", "1", "10"]),
    ],
)
def test_a_short_logarithmic_axis_has_labels_between_its_powers_of_ten(limits, labels):
    axes = Figure().subplots()
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_ylim(*limits)
    axes.figure.draw_without_rendering()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    shown = [t.label1.get_text() for t in ticks if limits[0] <= t.get_loc() <= limits[1] and t.label1.get_text()]
    assert sorted(shown, key=float) == labels
