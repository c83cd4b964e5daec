"""One style for all figures: readable in print and in gray."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "axes.titlesize": 9,
    "grid.alpha": 0.3,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "smoothout",  # equal figures give equal files
    "svg.fonttype": "none",
}
COLORS = ("#0b4f8a", "#e08214", "#222222", "#b5179e", "#4daf4a", "#8c4a2f")  # neighbors differ in gray, too
NEUTRAL = "#333333"  # for what does not belong to a single run
MARKERS = ("o", "s", "^", "D", "v")
LINESTYLES = ("-", "--", "-.", (0, (1, 1)))
LINES = {"train": "-", "test": "--"}  # as in the papers
BAND = 0.18  # opacity between the lowest and the highest seed


def color(place: int | None) -> str:
    """The color of the run at that place of its figure (they repeat); None is for several runs."""
    return NEUTRAL if place is None else COLORS[place % len(COLORS)]


def marker(place: int | None) -> str:
    """The marker of the run at that place of its figure (they repeat)."""
    return MARKERS[(place or 0) % len(MARKERS)]


def linestyle(place: int | None) -> Any:
    """The line style of the run at that place of its figure (they repeat)."""
    return LINESTYLES[(place or 0) % len(LINESTYLES)]


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: at powers of ten, and on a short axis between them, too.

    These are 1, 2 and 5 on up to two decades, and every tick on up to half a decade.
    """

    def label(value: float, _: int | None = None) -> str:
        low, high = axis.get_view_interval()
        decades, digit = math.log10(high / low), f"{value:e}"[0]
        return f"{value:g}" if decades <= 0.5 or digit in ("125" if decades <= 2 else "1") else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def legend_below(axes: Any, *twins: Any, columns: int = 2, size: float | None = None, below: float = 0.18) -> None:
    """Draw the legend of ``axes`` and its ``twins`` below the label of the x axis, at a share of the axes' height."""
    pairs = [pair for each in (axes, *twins) for pair in zip(*each.get_legend_handles_labels(), strict=True)]
    if pairs:
        handles, labels = zip(*pairs, strict=True)
        anchor = {"loc": "upper center", "bbox_to_anchor": (0.5, -below)}
        axes.legend(handles, labels, ncols=columns, fontsize=size, **anchor)


def mean_and_band(
    axes: Any,
    x: Sequence[float],
    values: Sequence[Sequence[float | None]],
    look: dict[str, Any],
    factor: float = 1.0,
    *,
    mean: Callable[[Sequence[float]], float] = statistics.fmean,
    band: bool = True,
) -> None:
    """Draw ``factor`` times the mean of the values at each ``x``, in a band from the lowest to the highest.

    There is a gap at ``x`` if one of its values is None.
    """
    numbers = [[math.nan if v is None else factor * v for v in at_x] for at_x in values]
    axes.plot(x, [mean(n) for n in numbers], **look)
    if band and any(len(n) > 1 for n in numbers):
        bounds = ([math.nan if math.isnan(sum(n)) else side(n) for n in numbers] for side in (min, max))
        axes.fill_between(x, *bounds, color=look["color"], alpha=BAND, linewidth=0)
