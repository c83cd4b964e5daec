"""Scatter plots against learning rate / batch size, and learning curves beside a reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from helpers.common import a_record
from matplotlib.figure import Figure

from smoothout.results.figures import trends
from smoothout.results.figures.curves import NamedRecords, RunLabel
from smoothout.results.trend import Axis, Quantity, trend

RATES, BATCHES = (0.01, 0.1, 0.2), (25, 100, 1000)


@pytest.fixture
def axes() -> Any:
    return Figure().subplots()


def runs(name: str = "MLP", place: int = 0, seeds: int = 2, strength: float = 0.0) -> list[tuple[RunLabel, Any]]:
    """Trainings of a grid with their Hessians: both fall with learning rate / batch size, accuracy rises."""
    found = []
    for lr in RATES:
        for batch in BATCHES:
            for seed in range(seeds):
                key, ratio = f"{name}-{lr}-{batch}-{strength}-{seed}", lr / batch
                last = {"train_accuracy": 1.0, "test_accuracy": 0.9 + ratio + seed * 1e-5}
                settings = {"optimizer": {"lr": lr}, "perturbation": {"a": strength}}
                labels = {"batch": batch, "seed": seed}
                training = a_record(
                    "train", {"last": last, "diverged": False}, name=key, settings=settings, labels=labels
                )
                outcome = {"eigenvalues": {"values": [1 / ratio + seed]}, "norm": {"mean": 2 / ratio}}
                hessian = a_record("hessian", outcome, inputs=[key], labels=labels)
                found += [(RunLabel(name, place), training), (RunLabel(name, place), hessian)]
    return found


def shown(axes: Any) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if len(line.get_xdata())]


def test_a_point_stands_at_its_ratio_with_its_own_hessians_number(axes: Any) -> None:
    trends.scatter(axes, runs(), Quantity.eigenvalue)
    expected = [(lr / batch, 1 / (lr / batch) + seed) for lr in RATES for batch in BATCHES for seed in (0, 1)]
    assert sorted(shown(axes)) == [pytest.approx(point) for point in sorted(expected)]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_title_has_the_correlation_in_all_settings_and_within_each_and_the_verdict(axes: Any) -> None:
    records = runs()
    trends.scatter(axes, records, Quantity.validation_accuracy)
    claim, *lines = axes.get_title().splitlines()
    assert '"rises"' in claim
    assert [line.partition(":")[0] for line in lines] == [
        "all settings",
        "within one batch size",
        "within one learning rate",
    ]
    assert all(": +1.00, " in line and line.endswith(", holds") for line in lines)  # equal seeds give no interval
    trends.scatter(axes, records, Quantity.norm)
    claim, line, *_ = axes.get_title().splitlines()
    assert '"falls"' in claim
    assert "-1.00" in line
    assert line.endswith(", holds")
    [points] = trends.points_of(records, Quantity.norm).values()
    rising = trend([replace(point, value=-point.value) for point in points], Axis.lr_over_batch)
    assert trends.format_trend(rising, falls=True).endswith(", does not hold")


def test_batch_sizes_have_colors_and_learning_rates_markers_each_look_named_once(axes: Any) -> None:
    trends.scatter(axes, runs(), Quantity.norm)
    drawn = [line for line in axes.get_lines() if len(line.get_xdata())]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == len(RATES) * len(BATCHES)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [*(f"batch {batch}" for batch in BATCHES), *(f"learning rate {lr:g}" for lr in RATES)]


def test_several_runs_have_their_own_looks_and_lines(axes: Any) -> None:
    trends.scatter(axes, [*runs("256 units", 0), *runs("512 units", 1)], Quantity.eigenvalue)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["256 units", "512 units"]
    assert axes.get_title().splitlines()[1].startswith("256 units, all settings: -1.00")


def test_a_strength_has_its_place_on_a_linear_axis_and_few_settings_no_correlation(axes: Any) -> None:
    strengths = (0.0, 0.01, 0.0375)
    records: NamedRecords = [pair for a in strengths for pair in runs("SmoothOut", seeds=1, strength=a)[:2]]
    trends.scatter(axes, records, Quantity.eigenvalue, Axis.strength)
    assert [x for x, _ in shown(axes)] == list(strengths)
    assert axes.get_xscale() == "linear"
    assert axes.get_title().splitlines()[1] == "all settings: too few settings"


def test_what_diverged_or_lacks_its_training_is_no_point() -> None:
    records = runs(seeds=1)
    records[0][1].outcome["diverged"] = True
    without = [pair for pair in records if pair[1].name != records[2][1].name]
    [points] = trends.points_of(without, Quantity.eigenvalue).values()
    assert len(points) == 9 - 2


def training(name: str, place: int, accuracy: float, seed: int = 0) -> tuple[RunLabel, Any]:
    curve: list[float | None] = [0.5, accuracy]
    outcome = {"curves": {"train_accuracy": curve, "test_accuracy": [0.5, accuracy - 0.1]}, "diverged": False}
    return RunLabel(name, place), a_record("train", outcome, labels={"seed": seed})


def test_learning_curves_say_how_far_they_are_from_the_first_run_and_which_is_nearest(axes: Any) -> None:
    records = [training("0.1/50", 0, 0.8), training("1/500", 1, 0.82), training("0.316/500", 2, 0.7)]
    trends.learning_curves(axes, records)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["0.1/50", "1/500: 1.00 points away", "0.316/500: 5.00 points away"]
    assert axes.get_title() == "nearest to the thick curves: 1/500"
    solid = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in solid] == [[50, 80], [50, 82], [50, 70]]


def test_distances_are_between_equal_seeds_and_need_the_first_run(axes: Any) -> None:
    seeds = [training("0.1/50", 0, 0.8, 0), training("0.1/50", 0, 0.9, 1)]
    trends.learning_curves(axes, [*seeds, training("1/500", 1, 0.8, 0), training("1/500", 1, 0.9, 1)])
    assert "1/500: 0.00 points away" in [text.get_text() for text in axes.get_legend().get_texts()]
    alone = Figure().subplots()
    trends.learning_curves(alone, [training("1/500", 1, 0.8), training("0.316/500", 2, 0.9)])
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["1/500", "0.316/500"]
    assert alone.get_title() == ""


def test_without_a_reference_no_run_is_thick_and_no_distance_is_given(axes: Any) -> None:
    records = [training("SB", 0, 0.8), training("LB", 1, 0.7)]
    trends.learning_curves(axes, records, distances=False, held_out="test")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["SB", "LB"]
    assert (axes.get_title(), axes.get_ylabel()) == ("", "accuracy (%), test dashed")
    assert len({line.get_linewidth() for line in axes.get_lines()}) == 1
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[50, pytest.approx(70)], [50, pytest.approx(60)]]
    trends.learning_curves(reference := Figure().subplots(), records)
    assert reference.get_ylabel() == "accuracy (%), validation dashed"
    assert len({line.get_linewidth() for line in reference.get_lines()}) == 2


def test_an_epoch_that_is_no_number_is_a_gap(axes: Any) -> None:
    run, record = training("1.2/500", 1, 0.8)
    record.outcome["curves"]["train_accuracy"] = [0.5, None]
    trends.learning_curves(axes, [(run, record)])
    assert math.isnan(axes.get_lines()[0].get_ydata()[1])


def test_a_diverged_run_is_counted_and_neither_nearest_nor_in_a_mean(axes: Any) -> None:
    records = [training("0.1/50", 0, 0.8, seed) for seed in (0, 1)]
    records += [training("1/500", 1, 0.8, seed) for seed in (0, 1)]
    records += [training("2/500", 2, 0.7, seed) for seed in (0, 1)]
    for _, record in (records[2], records[4], records[5]):
        record.outcome["diverged"] = True
        record.outcome["curves"]["train_accuracy"] = record.outcome["curves"]["test_accuracy"] = [0.5]
    trends.learning_curves(axes, records)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["0.1/50", "1/500: 0.00 points away (1 diverged)", "2/500 (2 diverged)"]
    assert axes.get_title() == "nearest to the thick curves: 1/500"
    solid = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in solid] == [[50, 80], [50, 80], []]
