"""A picture as panels on one sheet, written as SVG and PNG; a panel that lacks its records says so."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from smoothout.figures.style import STYLE
from smoothout.files import whole_file

WIDTH, HEIGHT = 5.0, 4.1  # of a panel with its legend, in inches
NAMED = 4  # missing records that an empty panel names


@dataclass(frozen=True)
class Panel:
    """One part of a picture.

    Attributes:
        title: above it.
        draw: draws it on matplotlib's axes; None where nothing is recorded.
        missing: names of the records that it lacks.
        solid: whether its axes are those of a space.
    """

    title: str
    draw: Callable[[Any], None] | None
    missing: Sequence[str] = ()
    solid: bool = False


def save(title: str, panels: Sequence[Panel], note: str, path: Path, columns: int | None = None) -> list[Path]:
    """Draw ``panels`` in rows of ``columns`` (None: all in one row) and write <path>.svg and <path>.png.

    ``note`` says in small print what the picture was made of.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    across = min(columns or len(panels), len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * across, HEIGHT * down))
        figure.set_layout_engine("constrained", wspace=0.05, hspace=0.05)  # axis labels of neighbours keep apart
        for index, panel in enumerate(panels, start=1):
            solid = panel.solid and panel.draw is not None
            axes = figure.add_subplot(down, across, index, projection="3d" if solid else None)
            _fill(axes, panel)
        figure.suptitle(title, fontsize=10)
        figure.supxlabel(note, fontsize=6.5, color="0.35")
        return [_written(figure, path.with_name(path.name + ending)) for ending in (".svg", ".png")]


def _fill(axes: Any, panel: Panel) -> None:
    if panel.draw is None:
        axes.set_axis_off()
        names = list(panel.missing[:NAMED])
        more = [f"and {len(panel.missing) - NAMED} more"] if len(panel.missing) > NAMED else []
        lines = [line for name in names for line in textwrap.wrap(f"not run: {name}", 58)]
        axes.text(0.5, 0.5, "\n".join([*lines, *more]), ha="center", va="center", fontsize=7, transform=axes.transAxes)
    else:
        panel.draw(axes)
    said = axes.get_title()
    partly = f"not run: {len(panel.missing)} of its records" if panel.draw and panel.missing else ""
    axes.set_title("\n".join(line for line in (panel.title, said, partly) if line))


def _written(figure: Any, path: Path) -> Path:
    with whole_file(path) as part:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=metadata)
    return path
