"""One look for all pictures: readable in print and in grey."""

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
    "svg.hashsalt": "smoothout",  # equal pictures are equal files
    "svg.fonttype": "none",
}
COLOURS = ("#0b4f8a", "#e08214", "#222222", "#b5179e", "#4daf4a")  # neighbours differ in grey too
NEUTRAL = "#333333"  # of what belongs to no single run
MARKERS = ("o", "s", "^", "D", "v")
LINESTYLES = ("-", "--", "-.", (0, (1, 1)))
LINES = {"train": "-", "test": "--"}  # as in the papers
BAND = 0.18  # opacity of what lies between the lowest and the highest of several


def colour(runtime: int | None) -> str:
    """Of the run of that place in its picture; after the last one they begin anew. None is no single run."""
    return NEUTRAL if runtime is None else COLOURS[runtime % len(COLOURS)]


def marker(runtime: int | None) -> str:
    """Of the run of that place in its picture; after the last one they begin anew."""
    return MARKERS[(runtime or 0) % len(MARKERS)]


def linestyle(runtime: int | None) -> Any:
    """Of the run of that place in its picture; after the last one they begin anew."""
    return LINESTYLES[(runtime or 0) % len(LINESTYLES)]


def plain_log(axis: Any) -> None:
    """Plain numbers on a logarithmic axis: at the powers of ten, and where it is short between them too.

    At 1, 2 and 5 where it spans two decades at most; at every tick where it spans half a decade.
    """

    def label(value: float, _: int | None = None) -> str:
        low, high = axis.get_view_interval()
        decades, digit = math.log10(high / low), f"{value:e}"[0]
        return f"{value:g}" if decades <= 0.5 or digit in ("125" if decades <= 2 else "1") else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def legend_below(axes: Any, *twins: Any, columns: int = 2, size: float | None = None) -> None:
    """The legend of ``axes`` and its ``twins``, under the axis' label."""
    pairs = [pair for one in (axes, *twins) for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    if pairs:
        handles, labels = zip(*pairs, strict=True)
        runtime = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
        axes.legend(handles, labels, ncols=columns, fontsize=size, **runtime)


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
    """``factor`` times the mean of the values at each ``x``, in a band from the lowest to the highest of several.

    Where one of them is None there is a gap.
    """
    numbers = [[math.nan if v is None else factor * v for v in at_x] for at_x in values]
    axes.plot(x, [mean(n) for n in numbers], **look)
    if band and any(len(n) > 1 for n in numbers):
        bounds = ([math.nan if math.isnan(sum(n)) else side(n) for n in numbers] for side in (min, max))
        axes.fill_between(x, *bounds, color=look["color"], alpha=BAND, linewidth=0)
