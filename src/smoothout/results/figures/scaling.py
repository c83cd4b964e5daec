"""What the performance model says of more and more workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoothout.results.figures.style import colour, legend_below

WORKERS = tuple(2**power for power in range(11))  # 1 to 1,024


def epochs(
    axes: Any, predicted: Mapping[int, Sequence[float]], found: Mapping[str, Mapping[int, float]], batch: int
) -> None:
    """Seconds of an epoch by batch size, at each of WORKERS.

    Dots, and rings around them, are what was ``found`` at ``batch``, by workers.
    """
    for index, (size, times) in enumerate(predicted.items()):
        axes.plot(WORKERS, times, color=colour(index), label=f"batch {size:,}")
        axes.plot(WORKERS, [times[0] / p for p in WORKERS], color=colour(index), linewidth=0.7, linestyle=":")
    shade = colour(list(predicted).index(batch))
    for size, filled, (name, points) in zip((4, 10), ("full", "none"), found.items(), strict=True):
        look = {"color": shade, "markersize": size, "fillstyle": filled, "zorder": 3}
        axes.plot([*points], [*points.values()], "o", **look, label=name)
    _axes(axes, "seconds of an epoch (dotted: perfect scaling)")


def iterations(axes: Any, small: int, large: int, ratios: Sequence[float]) -> None:
    """The most iterations that the large batch may take for each of the small one, at each of WORKERS."""
    axes.plot(WORKERS, ratios, color=colour(None), label=f"batch {large:,} against {small:,}")
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    _axes(axes, "iterations for each one of the small batch")


def _axes(axes: Any, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(WORKERS[::2], [f"{p:,}" for p in WORKERS[::2]])
    axes.set_xlabel("workers")
    axes.set_ylabel(label)
    legend_below(axes)
