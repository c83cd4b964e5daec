"""Numbers as text."""

from __future__ import annotations

import pytest

from smoothout.common.formatting import format_duration, format_hours


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.0, "1 min"),
        (0.05, "3 min"),
        (0.99, "59 min"),
        (1.0, "1.0 h"),
        (99.9, "99.9 h"),
        (100.0, "100 h"),
        (21988.5, "21,988 h"),
    ],
)
def test_a_duration_has_no_more_digits_than_an_estimate_deserves(hours: float, text: str) -> None:
    assert format_duration(hours) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [((), ""), ((None,), ""), ((1.0, 2.5), "about 3.5 h"), ((1.0, None), "about 1.0 h and more")],
)
def test_a_total_names_hours_that_are_not_known(hours: tuple[float | None, ...], text: str) -> None:
    assert format_hours(hours) == text
