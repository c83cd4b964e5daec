"""A row of the benchmark's report, and how a comparison makes it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

import torch

from smoothout.benchmark.timing import Work, profile_top_ops, time_in_turn


@dataclass(frozen=True)
class Row:
    """One row of the report: ``what`` was compared, and a figure, which is a ratio if it has no ``unit``."""

    what: str
    target: float | None = None  # None for a cost that is only shown
    at_least: bool = False  # whether the target is to be reached at least, not at most
    measured: float | None = None  # None if it was not measured
    spread: tuple[float, float] | None = None  # first and third quartile over the turns
    unit: str = ""
    note: str = ""
    hot_spots: list[tuple[str, float]] = field(default_factory=list)  # where ours spends most time, with its share
    times: dict[str, list[float]] = field(default_factory=dict)  # seconds of every turn: ours, reference

    @property
    def target_met(self) -> bool | None:
        """Whether the target is met; None without a target or a figure."""
        if self.target is None or self.measured is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def time_ratio(
    what: str, target: float, ours: Work, reference: Work, device: torch.device, *, turns: int, warm_up: int = 2
) -> Row:
    """Time both sides in turn, at least 2 ``turns``; the row says how many times as long ours takes, by the medians."""
    times = time_in_turn({"ours": ours, "reference": reference}, device, turns, warm_up)
    ratio, spread = ratio_of(times["ours"], times["reference"])
    return Row(what, target, measured=ratio, spread=spread, hot_spots=profile_top_ops(ours, device), times=times)


def ratio_of(ours: list[float], reference: list[float]) -> tuple[float, tuple[float, float]]:
    """The ratio of the medians, and the first and third quartile of the ratio over the turns."""
    low, _, high = statistics.quantiles((o / r for o, r in zip(ours, reference, strict=True)), n=4)
    return statistics.median(ours) / statistics.median(reference), (low, high)


def speed_ratio(what: str, target: float, ours: Work, reference: Work, device: torch.device, **turns: int) -> Row:
    """`time_ratio` the other way round: the row says how many times as fast ours is."""
    row = time_ratio(what, target, ours, reference, device, **turns)
    assert row.measured is not None
    assert row.spread is not None
    low, high = row.spread
    return replace(row, at_least=True, measured=1 / row.measured, spread=(1 / high, 1 / low), unit="times as fast")
