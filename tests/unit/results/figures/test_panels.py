"""A sheet of panels: written as SVG and PNG, equal for equal panels, and honest about what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from smoothout.results.figures.panels import Panel, save


def drawn(axes) -> None:
    axes.plot([0, 1], [0, 1], label="a line")
    axes.set_title("what the panel says")


def size(svg: str) -> tuple[float, float]:
    """Width and height of a written picture, in points."""
    [(width, height)] = re.findall(r'<svg .*?width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    return float(width), float(height)


def test_a_sheet_is_written_as_svg_and_png_and_equal_panels_give_equal_files(tmp_path: Path):
    panels = [Panel("(a) one", drawn), Panel("(b) other", drawn)]
    paths = save("A title", panels, "protocol released", tmp_path / "folder" / "x-0.1")
    again = save("A title", panels, "protocol released", tmp_path / "again")
    assert [path.name for path in paths] == ["x-0.1.svg", "x-0.1.png"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    text = paths[0].read_text()
    for words in ("A title", "(a) one", "(b) other", "what the panel says", "protocol released"):
        assert words in text


def test_a_panel_without_records_is_left_out_and_said_in_the_note(tmp_path: Path):
    def text(*panels: Panel) -> str:
        return save("t", panels, "seed 0", tmp_path / "x")[0].read_text()

    partly = text(Panel("(a) here", drawn), Panel("(b) gone", None, missing=1, is_3d=True))
    assert "not run: (b) gone" in partly
    assert "not run" not in text(Panel("(a) here", drawn))
    assert size(partly) == size(text(Panel("(a) here", drawn)))


def test_where_no_panel_has_records_nothing_is_written(tmp_path: Path):
    assert save("t", [Panel("p", None, missing=3)], "", tmp_path / "folder" / "x") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("axis", "solid"), [("y", False), ("z", True)])
def test_panels_that_share_an_axis_have_the_widest_limits_and_others_their_own(tmp_path: Path, axis: str, solid: bool):
    seen: list[Any] = []

    def panel(low: float, high: float, shares: str | None) -> Panel:
        def draw(axes: Any) -> None:
            seen.append(axes)
            axes.set(**{f"{axis}lim": (low, high)})

        return Panel("p", draw, is_3d=solid, shared_axis=shares)

    save("t", [panel(0, 2, axis), panel(-1, 1, axis), panel(0, 9, None)], "", tmp_path / "x")
    assert [getattr(axes, f"get_{axis}lim")() for axes in seen] == [(-1, 2), (-1, 2), (0, 9)]


def test_panels_stand_in_rows_of_that_many_columns(tmp_path: Path):
    def text(columns: int | None) -> str:
        return save("t", [Panel("p", drawn)] * 3, "", tmp_path / "x", columns)[0].read_text()

    wide, tall = size(text(None)), size(text(2))
    assert wide[0] > tall[0]
    assert wide[1] < tall[1]
