"""A sheet of panels: written as SVG and PNG, equal for equal panels, and honest about what is missing."""

from __future__ import annotations

from pathlib import Path

from smoothout.figures.sheet import Panel, save


def drawn(axes) -> None:
    axes.plot([0, 1], [0, 1], label="a line")
    axes.set_title("what the panel says")


def test_a_sheet_is_written_as_svg_and_png_and_equal_panels_give_equal_files(tmp_path: Path):
    panels = [Panel("(a) one", drawn), Panel("(b) other", drawn)]
    paths = save("A title", panels, "regime released", tmp_path / "folder" / "x-0.1")
    again = save("A title", panels, "regime released", tmp_path / "again")
    assert [path.name for path in paths] == ["x-0.1.svg", "x-0.1.png"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    text = paths[0].read_text()
    for words in ("A title", "(a) one", "(b) other", "what the panel says", "regime released"):
        assert words in text


def test_a_panel_without_records_is_empty_and_names_what_was_not_run(tmp_path: Path):
    missing = [f"run-{number}" for number in range(6)]
    text = save("t", [Panel("(a) gone", None, missing, solid=True)], "", tmp_path / "x")[0].read_text()
    for words in ("(a) gone", "not run: run-0", "not run: run-3", "and 2 more"):
        assert words in text
    assert "run-4" not in text


def test_a_panel_that_lacks_some_of_its_records_says_how_many(tmp_path: Path):
    assert "not run: 2 of its records" in save("t", [Panel("p", drawn, ["x", "y"])], "", tmp_path / "x")[0].read_text()


def test_panels_stand_in_rows_of_so_many_columns(tmp_path: Path):
    def size(columns: int | None) -> tuple[float, float]:
        text = save("t", [Panel("p", drawn)] * 3, "", tmp_path / "x", columns)[0].read_text()
        return float(text.split('width="')[1].split("pt")[0]), float(text.split('height="')[1].split("pt")[0])

    wide, tall = size(None), size(2)
    assert wide[0] > tall[0]
    assert wide[1] < tall[1]


def test_a_space_gets_axes_of_a_space(tmp_path: Path):
    seen = []
    save("t", [Panel("p", lambda axes: seen.append(axes.name), solid=True), Panel("q", drawn)], "", tmp_path / "x")
    assert seen == ["3d"]
