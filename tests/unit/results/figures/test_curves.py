"""Loss and accuracy drawn: what was measured is on the axes, what has no value is a gap, seeds make a band."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from helpers.common import a_record
from matplotlib.figure import Figure

from smoothout.results.figures import curves
from smoothout.results.figures.curves import WINDOW, RunLabel
from smoothout.results.figures.style import COLORS
from smoothout.results.records import Record

SB, LB, WAY = RunLabel("SB", 0), RunLabel("LB", 1), RunLabel("0 is SB, 1 is LB")


def line(gaps: int = 0, factor: float = 1.0) -> Record:
    values = [None] * gaps + [0.1 * factor] * (4 - gaps)
    points = [
        {"alpha": i - 1.0, "loss": v, "accuracy": v, "negative_variances": 3 if v is None else 0}
        for i, v in enumerate(values)
    ]
    return a_record("interpolation", {"train": points, "test": points})


def noise(factor: float = 1.0) -> Record:
    points = [{"a": a, "loss": factor * (0.1 + a), "accuracy": 0.9 - a} for a in (0.0, 0.1, 0.2)]
    half = {"points": points, "slopes": [1.0, 1.0]}
    return a_record("noise_curve", {"train": half, "test": half}, settings={"law": "uniform"})


def landscape(directions: int = 2) -> Record:
    points = [
        {"alpha": alpha, "losses": [1.0 + i for i in range(directions)], "accuracies": [0.5] * directions}
        for alpha in (-1.0, 0.0, 1.0)
    ]
    return a_record("landscape", {"train": points, "test": points}, settings={"directions": directions})


@pytest.fixture
def axes() -> Any:
    return Figure().subplots()


def lines(axes: Any) -> dict[str, Any]:
    """The drawn lines of the axes and their twin, by label."""
    return {drawn.get_label(): drawn for one in axes.figure.axes for drawn in one.get_lines()}


def test_train_is_solid_and_test_dashed_loss_at_the_left_on_a_log_axis_and_accuracy_at_the_right_in_percent(axes):
    curves.line(axes, [(WAY, line())])
    drawn = lines(axes)
    assert (drawn["loss, train"].get_linestyle(), drawn["loss, test"].get_linestyle()) == ("-", "--")
    assert (drawn["accuracy, train"].get_linestyle(), drawn["accuracy, test"].get_linestyle()) == ("-", "--")
    assert drawn["loss, train"].axes is axes
    assert drawn["accuracy, test"].axes is not axes
    assert axes.get_yscale() == "log"
    assert list(drawn["accuracy, train"].get_ydata()) == pytest.approx([10.0] * 4)
    assert axes.get_xlabel() == "alpha: 0 is SB, 1 is LB"
    assert axes.get_xlim() == (-1.0, 2.0)


def test_points_without_a_value_are_a_gap_and_said(axes):
    curves.line(axes, [(WAY, line(gaps=1))])
    values = lines(axes)["loss, test"].get_ydata()
    assert [math.isnan(value) for value in values] == [True, False, False, False]
    assert "no value at 1 of 4 points" in axes.get_title()


def test_seeds_are_drawn_as_their_mean_in_a_band_from_lowest_to_highest(axes):
    curves.noise(axes, [(SB, noise(1.0)), (SB, noise(3.0))])
    assert list(lines(axes)["loss, SB train"].get_ydata()) == pytest.approx([0.2, 0.4, 0.6])
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == pytest.approx((0.1, 0.9))


def test_several_runs_have_a_colour_each_for_both_their_curves(axes):
    curves.noise(axes, [(SB, noise()), (LB, noise())])
    drawn = lines(axes)
    for run, color in zip(("SB", "LB"), COLORS, strict=False):
        assert {
            drawn[f"{what}, {run} {part}"].get_color() for what in ("loss", "accuracy") for part in ("train", "test")
        } == {color}
    assert axes.get_xlabel() == "strength a of uniform noise in the weights"
    assert len(axes.get_legend().get_texts()) == 8


def test_a_landscapes_band_is_over_its_directions_and_one_split_can_be_chosen(axes):
    curves.landscape(axes, [(SB, landscape(3))], split="test")
    drawn = lines(axes)
    assert set(drawn) == {"loss, SB test", "accuracy, SB test"}
    assert list(drawn["loss, SB test"].get_ydata()) == [2.0] * 3
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == pytest.approx((1.0, 3.0))
    assert "3 random filter-normalized directions" in axes.get_xlabel()


def training(accuracies: list[float], best: int, name: str = "run") -> Record:
    ends = {"best": {"epoch": best}, "last": {"epoch": len(accuracies) - 1}}
    return a_record("train", {"curves": {"test_accuracy": accuracies}, **ends}, name=name)


def recomputed(accuracy: float, weights: str, of: str = "run") -> Record:
    outcome = {"recomputed": {"test": {"accuracy": accuracy}}}
    return a_record("averages", outcome, settings={"weights": weights}, inputs=[of])


@pytest.mark.parametrize(("weights", "epoch"), [("best", 2), ("last", 3)])
def test_a_course_has_the_best_epoch_hollow_and_a_full_mark_where_statistics_were_recomputed(axes, weights, epoch):
    curves.training_curve(axes, [(SB, training([0.5, 0.9, 0.8], best=1)), (SB, recomputed(0.95, weights))])
    drawn = lines(axes)
    hollow, full = drawn["SB, best epoch"], drawn[f"SB, {weights} epoch recalibrated"]
    assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([2], "white")
    assert list(hollow.get_ydata()) == pytest.approx([10.0])
    assert (list(full.get_xdata()), full.get_markerfacecolor()) == ([epoch], COLORS[0])
    assert list(full.get_ydata()) == pytest.approx([5.0])
    assert axes.get_yscale() == "log"


def test_a_course_is_the_test_errors_running_median_over_epochs_which_the_panel_says(axes):
    accuracies = [0.5 if epoch % 3 == 0 else 0.9 for epoch in range(4 * WINDOW)]  # every third epoch is an outlier
    curves.training_curve(axes, [(SB, training([*accuracies, 0.1], best=1))])
    errors = lines(axes)["SB, 1 seed"].get_ydata()
    assert list(lines(axes)["SB, 1 seed"].get_xdata()) == list(range(1, 4 * WINDOW + 2))
    assert errors[WINDOW:-WINDOW] == pytest.approx([10.0] * (2 * WINDOW + 1))
    half = WINDOW // 2 + 1
    assert errors[-1] == pytest.approx(statistics.median([100 * (1 - a) for a in [*accuracies, 0.1][-half:]]))
    assert f"running median over {WINDOW} epochs" in axes.get_title()


def test_a_courses_seeds_are_their_mean_in_a_band_as_long_as_all_of_them_last(axes):
    runs = [training([0.5, 0.5], best=0, name="a"), training([0.7], best=0, name="b")]  # the second ended early
    curves.training_curve(axes, [(SB, run) for run in runs])
    drawn = lines(axes)
    assert list(drawn["SB, 2 seeds"].get_ydata()) == pytest.approx([40.0, math.nan], nan_ok=True)
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == pytest.approx((30.0, 50.0))
    assert list(drawn["SB, best epoch"].get_ydata()) == pytest.approx([50.0, 30.0])
    assert set(drawn) == {"SB, 2 seeds", "SB, best epoch"}  # nothing was recomputed
