"""A line of the benchmark's report, and how it comes from a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from smoothout.benchmark.timing import Ratio, Work, profile_top_ops


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        what: the comparison.
        bar: what is to be reached, None for a cost that is only shown; ``at_least`` says from which side.
        reached: the figure, None where it was not measured.
        spread: its first and third quartile over the turns.
        unit: of the figure; "" for a ratio.
        note: anything that a reader needs beside it.
        hot_spots: where ours spends its time, as (operation, share).
        times: every turn's seconds, ours and the reference's.
    """

    what: str
    bar: float | None = None
    at_least: bool = False
    reached: float | None = None
    spread: tuple[float, float] | None = None
    unit: str = ""
    note: str = ""
    hot_spots: list[tuple[str, float]] = field(default_factory=list)
    times: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def target_met(self) -> bool | None:
        """Whether the bar is met; None without a bar or a figure."""
        if self.bar is None or self.reached is None:
            return None
        return self.reached >= self.bar if self.at_least else self.reached <= self.bar


def row(what: str, bar: float, ratio: Ratio, ours: Work, device: torch.device, *, note: str = "") -> Row:
    """A row that says how many times as long ours takes."""
    times = {"ours": ratio.ours, "reference": ratio.reference}
    spots = profile_top_ops(ours, device)
    return Row(what, bar, reached=ratio.value, spread=ratio.spread, note=note, hot_spots=spots, times=times)


def faster(what: str, bar: float, ratio: Ratio, ours: Work, device: torch.device, *, note: str = "") -> Row:
    """A row that says how many times as fast ours is."""
    slower = row(what, bar, ratio, ours, device, note=note)
    low, high = ratio.spread
    spread = 1 / high, 1 / low
    return replace(slower, at_least=True, reached=1 / ratio.value, spread=spread, unit="times as fast")
