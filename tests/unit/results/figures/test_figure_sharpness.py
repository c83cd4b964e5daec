"""Sharpness drawn: best values so far, what failed, and sharpness against loss and batch size."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.common import a_record
from matplotlib.figure import Figure

from smoothout.results.figures import sharpness as searches
from smoothout.results.figures.curves import RunLabel
from smoothout.results.figures.style import COLORS
from smoothout.results.records import Record

SB, LB, BASELINE = RunLabel("SB", 0), RunLabel("LB", 1), RunLabel("baseline", 0)


def course(search: str, space: str, values: list[float], answer: float, failed: bool = False) -> dict[str, Any]:
    words = {"search": search, "space": space, "status": "STOP: WHY", "loss": 0.1, "dimension": 3}
    return {**words, "values": values, "answer": answer, "failed": failed}


ATLAS = a_record(
    "atlas",
    {
        "courses": [
            course("keskar", "full", [0.0, 2.0, 5.0], 4.0),
            course("released", "full", [0.0, 0.0], 0.0, failed=True),
            course("scaled", "full", [0.0, 7.0, 7.0, 8.0], 8.0),
            course("ascents", "subspace", [0.0, 3.0], 3.0),
        ]
    },
)


def sharpness(value: float, loss: float, failed: bool = False, **labels: Any) -> Record:
    return a_record("sharpness", {"value": value, "loss": loss, "failed": failed}, labels=labels)


def training(accuracy: float, **labels: Any) -> Record:
    return a_record("train", {"last": {"test_accuracy": accuracy}}, labels=labels)


@pytest.fixture
def axes() -> Any:
    return Figure().subplots()


def labeled(axes: Any) -> dict[str, Any]:
    """The lines that stand in the legend, by the first word of their labels."""
    every = [drawn for one in axes.figure.axes for drawn in one.get_lines()]
    return {d.get_label().partition(":")[0]: d for d in every if not d.get_label().startswith("_")}


def test_the_comparison_draws_the_best_value_after_each_evaluation_of_one_space(axes):
    searches.search_comparison(axes, [(SB, ATLAS)], space="full")
    drawn = labeled(axes)
    assert set(drawn) == {"keskar", "released (test split)", "L-BFGS-B scaled to the box"}
    keskar = drawn["keskar"]
    assert list(keskar.get_xdata()) == [1, 2, 3]
    assert math.isnan(keskar.get_ydata()[0])  # 0 has no place on a logarithmic axis
    assert list(keskar.get_ydata()[1:]) == [2.0, 5.0]


def test_the_comparison_says_what_was_found_for_how_much_and_why_the_search_ended(axes):
    searches.search_comparison(axes, [(SB, ATLAS)])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "keskar: 4% after 3; why" in texts
    assert "released (test split): failed after 2; why" in texts


def test_the_comparison_marks_a_conventions_answer_but_none_for_a_failed_search_or_a_method(axes):
    searches.search_comparison(axes, [(SB, ATLAS)])
    marks = [drawn for drawn in axes.get_lines() if drawn.get_marker() not in {"None", None, ""}]
    assert [(list(mark.get_xdata()), list(mark.get_ydata())) for mark in marks] == [([3], [4.0])]


def test_sharpness_over_the_loss_goes_by_epochs_which_stand_next_to_the_points(axes):
    records = [(SB, sharpness(5.0, 0.01, epochs=10)), (SB, sharpness(2.0, 0.5, epochs=1))]
    searches.over_loss(axes, [*records, (LB, sharpness(9.0, 0.3, epochs=1))])
    drawn = labeled(axes)
    assert list(drawn["SB"].get_xdata()) == [0.5, 0.01]
    assert list(drawn["SB"].get_ydata()) == [2.0, 5.0]
    assert list(drawn["LB"].get_ydata()) == [9.0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "10"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_failed_search_is_a_cross_at_the_foot_and_no_point(axes):
    searches.over_loss(axes, [(SB, sharpness(0.0, 0.01, failed=True)), (SB, sharpness(2.0, 0.5, epochs=3))])
    drawn = labeled(axes)
    assert list(drawn["SB"].get_ydata()) == [2.0]
    assert list(drawn["search failed"].get_xdata()) == [0.01]
    assert drawn["search failed"].get_marker() == "x"


def test_over_batch_sizes_accuracy_is_a_mean_and_sharpness_a_geometric_mean_over_seeds(axes):
    records = [
        (BASELINE, made)
        for seed in (0, 1)
        for batch in (512, 32)
        for made in (
            training(0.9 + 0.02 * seed, batch=batch, seed=seed),
            sharpness(batch + 2.0 * seed, 0.1, batch=batch, seed=seed),
        )
    ]
    searches.over_batch(axes, records)
    drawn = labeled(axes)
    accuracy, values = drawn["test accuracy, baseline"], drawn["sharpness, baseline"]
    assert list(accuracy.get_xdata()) == list(values.get_xdata()) == [32, 512]
    assert list(accuracy.get_ydata()) == pytest.approx([91.0, 91.0])
    assert list(values.get_ydata()) == pytest.approx([(32 * 34) ** 0.5, (512 * 514) ** 0.5])
    assert values.axes.get_yscale() == "log"
    assert (accuracy.get_linestyle(), values.get_linestyle()) == ("-", "--")
    assert {accuracy.get_color(), values.get_color()} == {COLORS[0]}


def test_over_the_epoch_of_a_warm_start_a_run_stands_where_it_began_and_its_source_where_it_ended(axes):
    warm, start = RunLabel("LB", 0), RunLabel("start of LB")
    records = [
        made
        for seed in (0, 1)
        for epochs in (20, 5)
        for made in (
            (start, training(0.8 + epochs / 1000, epochs=epochs, seed=seed)),
            (warm, training(0.9 + 0.02 * seed, epochs=100, init_epochs=epochs, seed=seed)),
            (warm, sharpness(epochs + 2.0 * seed, 0.1, epochs=100, init_epochs=epochs, seed=seed)),
        )
    ]
    searches.over_start(axes, records)
    drawn = labeled(axes)
    assert set(drawn) == {"test accuracy, start of LB", "test accuracy, LB", "sharpness, LB"}
    assert all(list(line.get_xdata()) == [5, 20] for line in drawn.values())
    assert list(drawn["test accuracy, start of LB"].get_ydata()) == pytest.approx([80.5, 82.0])
    assert list(drawn["test accuracy, LB"].get_ydata()) == pytest.approx([91.0, 91.0])
    assert list(drawn["sharpness, LB"].get_ydata()) == pytest.approx([(5 * 7) ** 0.5, (20 * 22) ** 0.5])


def test_where_a_search_failed_there_is_a_cross_and_no_mean_of_the_others(axes):
    found = [sharpness(0.0, 0.1, failed=True, batch=32), *(sharpness(4.0, 0.1, batch=b, seed=1) for b in (32, 64))]
    searches.over_batch(axes, [(BASELINE, record) for record in (*found, training(0.9, batch=32))])
    drawn = labeled(axes)
    assert list(drawn["search failed"].get_xdata()) == [32]
    assert list(drawn["sharpness, baseline"].get_ydata()) == pytest.approx([math.nan, 4.0], nan_ok=True)


def rise(value: float, failed: bool = False, **settings: Any) -> Record:
    chosen = {"norm": "linf", "rho": 0.001, "part": "train", "normalise_logits": False, **settings}
    return a_record("adaptive", {"value": value, "failed": failed, "loss": 0.1}, settings=chosen)


def test_adaptive_sharpness_stands_run_next_to_run_a_point_per_seed_and_a_dash_at_their_mean(axes):
    searches.adaptive(axes, [(SB, rise(0.1)), (SB, rise(0.3)), (LB, rise(5.0))])
    places = [(list(drawn.get_xdata()), list(drawn.get_ydata()), drawn.get_marker()) for drawn in axes.get_lines()]
    (at, values, _), (_, mean, dash) = places[:2]
    assert (at, values, dash) == ([0, 0], [0.1, 0.3], "_")
    assert mean == pytest.approx([0.2])
    assert places[2:] == [([1], [5.0], "s")]  # no dash through a single point
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["SB\n2 seeds", "LB\n1 seed"]
    assert sorted(text.get_text() for text in axes.texts) == ["0.200", "5.00"]
    assert axes.get_yscale() == "log"
