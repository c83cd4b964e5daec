"""Pictures from records: what was measured is drawn, what has no value is a gap, and equal records are equal files."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothout.figures import line_and_noise
from smoothout.ledger import Record


def record(kind: str, outcome: dict) -> Record:
    return Record(kind, "name", "digest", {}, {}, {}, [], outcome, {})


def line(gaps: int) -> Record:
    values = [None] * gaps + [0.1] * (4 - gaps)
    points = [{"alpha": i - 1.0, "loss": v, "accuracy": v, "negative_variances": 0} for i, v in enumerate(values)]
    return record("interpolation", {"train": points, "test": points})


@pytest.fixture
def curves() -> list[tuple[str, Record]]:
    points = [{"a": a, "loss": 0.1 + a, "accuracy": 0.9 - a} for a in (0.0, 0.1, 0.2)]
    half = {"points": points, "slopes": [1.0, 1.0]}
    return [(name, record("noise_curve", {"train": half, "test": half})) for name in ("small batch", "large batch")]


def test_a_picture_is_written_as_svg_and_png_and_equal_records_give_equal_files(tmp_path: Path, curves):
    paths = line_and_noise(line(0), curves, "A title", tmp_path / "one")
    again = line_and_noise(line(0), curves, "A title", tmp_path / "two")
    assert [path.suffix for path in paths] == [".svg", ".png"]
    assert paths[0].read_bytes() == again[0].read_bytes()
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    text = paths[0].read_text()
    for words in ("A title", "loss, train", "accuracy, test", "loss, small batch train", "accuracy, large batch test"):
        assert words in text


def test_points_without_a_value_are_left_out_and_said(tmp_path: Path, curves):
    assert "points have no value" not in line_and_noise(line(0), curves, "t", tmp_path / "one")[0].read_text()
    assert "1 of 4 points have no value" in line_and_noise(line(1), curves, "t", tmp_path / "two")[0].read_text()
