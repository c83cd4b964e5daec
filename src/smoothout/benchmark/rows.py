"""A row of the benchmark's report, and how a comparison makes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from smoothout.benchmark.timing import Work, compare, profile_top_ops


@dataclass(frozen=True)
class Row:
    """One row of the report.

    Args:
        what: the comparison.
        target: what is to be reached, at least or (``at_least`` False) at most; None for a cost that is only shown.
        measured: the figure, None if it was not measured.
        spread: its first and third quartile over the turns.
        unit: of the figure; "" for a ratio.
        note: anything else that a reader needs.
        hot_spots: the operations in which ours spends most of its time, each with its share.
        times: seconds of every turn, ``ours`` and the ``reference``'s.
    """

    what: str
    target: float | None = None
    at_least: bool = False
    measured: float | None = None
    spread: tuple[float, float] | None = None
    unit: str = ""
    note: str = ""
    hot_spots: list[tuple[str, float]] = field(default_factory=list)
    times: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def target_met(self) -> bool | None:
        """Whether the target is met; None without a target or a figure."""
        if self.target is None or self.measured is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def time_ratio(
    what: str, target: float, ours: Work, reference: Work, device: torch.device, *, turns: int, warm_up: int = 2
) -> Row:
    """Time both sides; the row says how many times as long ours takes."""
    ratio = compare(ours, reference, device, turns, warm_up)
    times = {"ours": ratio.ours, "reference": ratio.reference}
    spots = profile_top_ops(ours, device)
    return Row(what, target, measured=ratio.value, spread=ratio.spread, hot_spots=spots, times=times)


def speed_ratio(what: str, target: float, ours: Work, reference: Work, device: torch.device, **turns: int) -> Row:
    """`time_ratio` the other way round: the row says how many times as fast ours is."""
    row = time_ratio(what, target, ours, reference, device, **turns)
    assert row.measured is not None
    assert row.spread is not None
    low, high = row.spread
    return replace(row, at_least=True, measured=1 / row.measured, spread=(1 / high, 1 / low), unit="times as fast")
