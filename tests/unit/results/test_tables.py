"""Tables from cells: what stands in them, and what does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from smoothout.common.formatting import format_decimal, format_significant
from smoothout.results.tables import Block, Cell, Table, difference

ONE, TWO = frozenset({3}), frozenset({4, 5})  # seeds that were lost


def table(*cells: Cell) -> Table:
    blocks = [Block("Accuracy", {"Baseline": "baseline best", "SmoothOut": "smoothout best"})]
    return Table("t", "A table", "authors_code", "paper", "float32", (0, 1), list(cells), blocks, ["A note."])


def test_a_cell_shows_mean_deviation_and_the_published_number():
    assert Cell("F1", "x", {0: 98.0, 1: 99.0}, published=98.4).text() == "98.50 ± 0.71 [98.40]"
    assert Cell("F1", "x", {3: 98.0}).text() == "98.00"


def test_a_cell_without_a_record_is_shown_as_not_run_never_as_a_number():
    assert Cell("F1", "x", published=98.49).text() == "not run [98.49]"
    assert math.isnan(Cell("F1", "x").mean)


def test_a_failed_search_is_shown_as_failed_and_never_as_zero():
    assert Cell("F1", "x", failed=ONE, published=0.0).text(by_ratio=True) == "failed [0.0000]"
    assert Cell("F1", "x", {1: 2.5}, failed=TWO).text() == "2.50 (2 failed of 3)"
    assert Cell("F1", "x", diverged=TWO).text() == "diverged"
    assert Cell("F1", "x", {1: 2.5}, failed=TWO, diverged=ONE).text() == "2.50 (2 failed, 1 diverged of 4)"
    assert Cell("F1", "x", failed=frozenset({2}), diverged=ONE).text() == "failed and diverged"


def test_a_cell_says_where_it_has_fewer_seeds_than_the_table():
    assert Cell("F1", "x", {0: 98.0, 1: 99.0}, published=98.4).text(seeds=5) == "98.50 ± 0.71 (2 of 5 seeds) [98.40]"
    assert Cell("F1", "x", {0: 98.0, 1: 99.0}).text(seeds=2) == "98.50 ± 0.71"
    assert Cell("F1", "x", {0: 98.0}, failed=ONE).text(seeds=3) == "98.00 (1 failed of 2; 2 of 3 seeds)"
    assert Cell("F1", "x", failed=ONE).text(seeds=2) == "failed (1 of 2 seeds run)"
    assert Cell("F1", "x").text(seeds=2) == "not run"
    assert "98.00 (1 of 2 seeds)" in table(Cell("F1", "baseline best", {0: 98.0})).markdown()


def test_what_is_compared_by_ratio_is_shown_as_geometric_mean_lowest_and_highest():
    values = {0: 1.0, 1: 100.0, 2: 1000.0}
    assert Cell("F1", "x", values, published=57.8246).text(3, by_ratio=True) == "46.4 (1.00 to 1000) [57.8246]"
    assert Cell("F1", "x", {0: 4362.87}).text(by_ratio=True) == "4360"
    assert Cell("F1", "x", {0: 2.0, 1: 8.0}, failed=ONE).text(4, by_ratio=True) == (
        "4.00 (2.00 to 8.00; 1 failed of 3; 3 of 4 seeds)"
    )
    made = table(Cell("F1", "baseline best", values)).long()
    assert made["geometric_mean"][0] == pytest.approx(10 ** (5 / 3))
    assert (made["lowest"][0], made["highest"][0]) == (1.0, 1000.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (9.999, "10.0"),
        (99.96, "100"),
        (4362.8, "4360"),
        (0.0, "0"),
        (5.6e-7, "5.6e-07"),
        (math.nan, "nan"),
    ],
)
def test_three_significant_digits(value, text):
    assert format_significant(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(98.0, 2, "98.00"), (-0.004, 2, "-0.004"), (4.2e-8, 4, "4e-08"), (0.0, 4, "0.0000"), (-1e-14, 2, "0.00")],
)
def test_a_number_that_is_not_zero_is_not_shown_as_zero(value, digits, text):
    assert format_decimal(value, digits) == text


def test_the_improvement_is_taken_seed_by_seed_over_the_seeds_that_both_have():
    base = Cell("F1", "baseline best", {0: 98.0, 2: 97.0}, records=["b"])
    better = Cell("F1", "smoothout best", {0: 98.5, 1: 99.9, 2: 97.1}, records=["s"])
    gain = difference(better, base, 0.41, "smoothout improvement")
    assert gain.values == pytest.approx({0: 0.5, 2: 0.1})
    assert gain.records == ["b", "s"]
    assert difference(better, Cell("F1", "baseline best"), None, "x").values == {}


def test_the_improvement_lost_every_seed_that_either_lost():
    base = Cell("F1", "baseline best", {0: 98.0, 4: 97.0}, diverged=ONE)
    better = Cell("F1", "smoothout best", {0: 98.5}, diverged=TWO)
    assert difference(better, base, None, "x").text() == "0.50 (3 diverged of 4)"


def test_weights_that_were_trained_again_are_counted_in_differences_and_in_the_long_form():
    base = Cell("F1", "baseline best", {0: 97.0, 1: 97.2, 2: 97.1}, retrained=frozenset({0}))
    better = Cell("F1", "smoothout best", {0: 98.0, 1: 98.2}, retrained=frozenset({1}))
    gain = difference(better, base, None, "smoothout improvement")
    assert gain.text(2) == "1.00 ± 0.00 (2 trained again)"
    assert list(table(base, better, gain).long()["retrained"]) == [1, 1, 2]
    assert not difference(better, replace(base, values={1: 97.2}), None, "x").retrained - {1}


def test_trainings_without_a_command_are_counted_with_what_is_not_run():
    cell = Cell("F1", "baseline best", command="python x", hours=1.0)
    made = replace(table(cell, replace(cell, row="C1")), first_trained={"F1": [2.0, 3.0]})
    lines = made.markdown().partition("## Not run")[2].splitlines()
    assert "- F1: 1 commands, about 1.0 h, which first train 2 runs, about 5.0 h" in lines
    assert "- C1: 1 commands, about 1.0 h" in lines


def test_the_long_form_has_a_line_a_cell_and_zero_seeds_where_nothing_was_run(tmp_path):
    made = table(
        Cell("F1", "baseline best", {0: 98.0, 1: 98.2}, published=98.0, records=["r1", "r2"], command="python x"),
        Cell("C1", "baseline best", published=79.67, command="python y", hours=3.2),
    )
    paths = made.save(tmp_path)
    frame = pd.read_csv(tmp_path / "t-authors_code-paper.csv").set_index("row")
    assert sorted(path.suffix for path in paths) == [".csv", ".md", ".tex"]
    assert list(frame["n"]) == [2, 0]
    assert frame.loc["F1", "mean"] == pytest.approx(98.1)
    assert frame.loc["F1", "difference"] == pytest.approx(0.1)
    assert frame.loc["F1", "records"] == "r1 r2"
    assert math.isnan(frame.loc["C1", "mean"])
    assert frame.loc["C1", "hours_to_run"] == 3.2
    assert set(frame["protocol"]) == {"authors_code"}


def test_markdown_lists_what_was_not_run_with_its_cost():
    costs = {"best": 3.0, "sharpness": 0.5}
    cells = [Cell("C1", f"baseline {name}", command=f"python {name}", hours=h) for name, h in costs.items()]
    text = table(*cells, Cell("C1", "baseline last", command="python best", hours=3.0)).markdown()
    assert "| C1 | not run" in text
    assert "- C1: 2 commands, about 3.5 h" in text
    assert "A note." in text
    assert "## Not run" not in table(Cell("C1", "baseline best", {0: 1.0}, hours=0.0)).markdown()


def test_latex_is_escaped_and_has_a_tabular_for_each_block():
    text = table(Cell("F1", "baseline best", {0: 1.0, 1: 2.0})).latex()
    assert text.count(r"\begin{tabular}") == 1
    assert r"1.50 \textpm{} 0.71" in text


def test_precisions_other_than_the_reference_have_files_of_their_own():
    made = table(Cell("F1", "x"))
    assert made.stem == "t-authors_code-paper"
    half = Table("t", "A", "authors_code_v1", "short", "bfloat16", (0,), [], [], [])
    assert half.stem == "t-authors_code_v1-short-bfloat16"
