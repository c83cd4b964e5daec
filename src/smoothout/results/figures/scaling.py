"""The performance model's predictions over the number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoothout.results.figures.style import color, legend_below

WORKERS = tuple(2**power for power in range(11))  # 1 to 1,024


def epochs(
    axes: Any, predicted: Mapping[int, Sequence[float]], measured: Mapping[str, Mapping[int, float]], batch: int
) -> None:
    """Draw the seconds per epoch at each of `WORKERS`, a line for each batch size.

    Dots and rings are the times that were ``measured`` with batch size ``batch``, by number of workers.
    """
    for index, (size, times) in enumerate(predicted.items()):
        axes.plot(WORKERS, times, color=color(index), label=f"batch {size:,}")
        axes.plot(WORKERS, [times[0] / p for p in WORKERS], color=color(index), linewidth=0.7, linestyle=":")
    shade = color(list(predicted).index(batch))
    for size, filled, (name, points) in zip((4, 10), ("full", "none"), measured.items(), strict=True):
        look = {"color": shade, "markersize": size, "fillstyle": filled, "zorder": 3}
        axes.plot([*points], [*points.values()], "o", **look, label=name)
    _axes(axes, "seconds per epoch (dotted: perfect scaling)")


def iterations(axes: Any, small: int, large: int, ratios: Sequence[float]) -> None:
    """Draw how many iterations of the large batch take as long as one of the small batch, at each of `WORKERS`."""
    axes.plot(WORKERS, ratios, color=color(None), label=f"batch {large:,} against {small:,}")
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    _axes(axes, "iterations per iteration of the small batch")


def _axes(axes: Any, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(WORKERS[::2], [f"{p:,}" for p in WORKERS[::2]])
    axes.set_xlabel("workers")
    axes.set_ylabel(label)
    legend_below(axes)
