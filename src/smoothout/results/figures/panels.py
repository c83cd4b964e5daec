"""A figure as panels on one sheet, written as SVG and PNG, with a note on what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from smoothout.common.files import atomic_write
from smoothout.results.figures.style import STYLE

WIDTH, HEIGHT = 5.0, 4.1  # inches, of a panel with its legend
TITLE, NOTE = 60, 95  # characters that fit into the width of a panel


@dataclass(frozen=True)
class Panel:
    """A part of a figure."""

    title: str  # above it
    draw: Callable[[Any], None] | None  # draws it on matplotlib's axes; None if it has no records
    missing: int = 0  # the number of its records that do not exist
    is_3d: bool = False  # whether its axes are three-dimensional
    shared_axis: str | None = None  # x, y or z, the axis whose limits it shares with all other panels that name it


def save(title: str, panels: Sequence[Panel], note: str, path: Path, columns: int | None = None) -> list[Path]:
    """Draw ``panels`` in rows of ``columns`` (None: all in one row) and write <path>.svg and <path>.png.

    The small print below has the ``note`` and the titles of panels without records. Nothing is written if all panels
    are without records.
    """
    shown = [panel for panel in panels if panel.draw]
    if not shown:
        return []
    lost = ", ".join(panel.title for panel in panels if not panel.draw)
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    across = min(columns or len(shown), len(shown))
    down = -(-len(shown) // across)
    sharing: dict[str, list[Any]] = {}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * across, HEIGHT * down))
        figure.set_layout_engine("constrained", wspace=0.05, hspace=0.05)  # keeps the axis labels of neighbors apart
        for index, panel in enumerate(shown, start=1):
            axes = figure.add_subplot(down, across, index, projection="3d" if panel.is_3d else None)
            _fill(axes, panel)
            if panel.shared_axis:
                sharing.setdefault(panel.shared_axis, []).append(axes)
        # Limits can only be shared once all panels are drawn.
        for axis, several in sharing.items():
            _share_limits(axis, several)
        figure.suptitle(textwrap.fill(title, TITLE * across), fontsize=10)
        notes = [note, *([f"not run: {lost}"] if lost else [])]
        lines = [textwrap.fill(line, NOTE * across, break_on_hyphens=False) for line in notes]  # names stay whole
        figure.supxlabel("\n".join(lines), fontsize=6.5, color="0.35")
        return [_written(figure, path.with_name(path.name + ending)) for ending in (".svg", ".png")]


def _fill(axes: Any, panel: Panel) -> None:
    """Draw the panel below its title, the title that the drawing gave, and a note on missing records."""
    assert panel.draw is not None
    panel.draw(axes)
    partly = f"not run: {panel.missing} of its records" if panel.missing else ""
    axes.set_title("\n".join(line for line in (panel.title, axes.get_title(), partly) if line))


def _share_limits(axis: str, several: Sequence[Any]) -> None:
    """Give all ``several`` the widest limits; matplotlib's own sharing takes the last ones' for 3-D axes."""
    lows, highs = zip(*(getattr(axes, f"get_{axis}lim")() for axes in several), strict=True)
    for axes in several:
        axes.set(**{f"{axis}lim": (min(lows), max(highs))})


def _written(figure: Any, path: Path) -> Path:
    with atomic_write(path) as part:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=metadata)
    return path
