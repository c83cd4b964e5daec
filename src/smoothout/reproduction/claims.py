"""The claims of configs/claims/: what each says about which numbers, and on which records it is tested."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, product
from pathlib import PurePath

from smoothout.common.enums import check_seeds, coerce_enum_fields
from smoothout.nn.options import Precision
from smoothout.reproduction.metrics import METRICS, current_metrics
from smoothout.reproduction.table import RunSelection


class ClaimKind(StrEnum):
    """What a claim says about the numbers."""

    difference = "difference"  # the sum over `plus` exceeds the sum over `minus`, up to a margin or a `min_ratio`
    spread = "spread"  # over seeds, `plus` has at most `max_ratio` times the standard deviation of `minus`
    correlation = "correlation"  # over all settings of `tables`, accuracy falls as the metric rises
    trend = "trend"  # over all settings of `tables`, accuracy rises, other metrics fall, with learning rate / batch
    curves = "curves"  # the learning curves of the two cells of `plus` are closer to each other than those of `minus`
    limit = "limit"  # `plus`, which is compared by ratio, is at most `limit`
    zero = "zero"  # the sharpness of `plus` is 0.0000
    published = "published"  # `plus`, or each cell of `tables` that the papers publish, reaches the published number


@dataclass(frozen=True)
class CellName:
    """A cell as a claim names it: "table | row | method", then metric and protocol if they are not the test's own."""

    table: str
    row: str
    method: str
    metric: str = ""
    protocol: str = ""

    @classmethod
    def parse(cls, text: str) -> CellName:
        """The cell that ``text`` names. Raises ValueError if it has too few parts or too many."""
        parts = [part.strip() for part in text.split("|")]
        if not 3 <= len(parts) <= 5:
            raise ValueError(f"{text!r} is not a cell; write table | row | method (| metric (| protocol))")
        return cls(*parts)

    def __str__(self) -> str:
        return " | ".join([self.table, self.row, self.method, self.metric, self.protocol]).rstrip(" |")


@dataclass(frozen=True)
class Sides:
    """The cells that a claim compares in one row, each as `CellName` reads it."""

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.plus:
            raise ValueError("plus: must have at least one cell")
        if len({bool(name.protocol) for name in self.cells()}) > 1:
            raise ValueError("plus, minus: either every cell names its protocol or none does")

    def cells(self) -> list[CellName]:
        """All cells. Raises ValueError."""
        return [CellName.parse(text) for text in chain(self.plus, self.minus)]

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that the cells name; none if the claim is tested under each protocol by itself."""
        return tuple(dict.fromkeys(name.protocol for name in self.cells() if name.protocol))


@dataclass(frozen=True)
class Declaration:
    """When a claim's quantity and seeds were fixed: before any run of these seeds was made."""

    when: str  # the date
    seeds: tuple[int, ...]  # the claim is judged on them once, when all of them are recorded
    fewer: tuple[int, ...] = ()  # the only others that it may be judged on, if not all can be afforded; () if none

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        if not set(self.fewer) < set(self.seeds):
            raise ValueError("fewer: must be some of the seeds, not all and no others")

    @property
    def choices(self) -> list[tuple[int, ...]]:
        """The sets of seeds that the claim may be judged on; others could leave out seeds because of their results."""
        return [self.seeds, self.fewer] if self.fewer else [self.seeds]


@dataclass(frozen=True)
class Claim:
    """A sentence of the papers, and the cells that it is about."""

    statement: str  # the claim
    source: str  # where the papers state it
    metrics: tuple[str, ...] = ("best",)  # names of `METRICS`; each one is its own test
    kind: ClaimKind = ClaimKind.difference  # see `ClaimKind`
    margin: float = 0.0  # points by which a difference may fall short
    min_ratio: float = 1.0  # for metrics compared by ratio: `plus` is at least that many times `minus`
    max_ratio: float = 1.0  # see `ClaimKind`
    limit: float | None = None  # see `ClaimKind`; in the unit of the metric
    tables: tuple[str, ...] = ()  # see `ClaimKind`
    rows: dict[str, Sides] = field(default_factory=dict)  # cells by the name of the comparison; each is a separate test
    for_each: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # by placeholder, its values by title: see `rows_of`
    declared: Declaration | None = None  # None: exploratory, the records were known when the claim was written
    family: str = ""  # p-values are corrected within the claims of a page that have the same one

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        object.__setattr__(self, "metrics", current_metrics(self.metrics))
        object.__setattr__(self, "rows", rows_of(self.rows, self.for_each))
        object.__setattr__(self, "for_each", {})
        if self.correlates and not self.tables:
            raise ValueError("tables: a correlation needs the names of the tables whose runs are correlated")
        if self.correlates and self.declared:
            raise ValueError("declared: must be null for a correlation, whose settings are not seeds")
        if self.tables and not (self.correlates or self.kind is ClaimKind.published):
            raise ValueError(f"tables: must be empty for a claim of kind {self.kind}; name cells in rows")
        self._check_limits()
        self._check_rows()

    def _check_limits(self) -> None:
        """Raise ValueError for a margin, ratio or limit out of range, or of no use to the claim's kind and metrics."""
        if self.margin < 0 or self.max_ratio < 1:
            raise ValueError(f"margin, max_ratio: must be at least 0 and 1, not {self.margin} and {self.max_ratio}")
        if self.margin and (ratios := [name for name in self.metrics if METRICS[name].ratio_scale]):
            raise ValueError(f"margin: is in points, but {ratios[0]} is compared by ratio")
        if not self.min_ratio > 0 or math.isinf(self.min_ratio):
            raise ValueError(f"min_ratio: must be a finite number above 0, not {self.min_ratio}")
        others = [name for name in self.metrics if not METRICS[name].ratio_scale]
        if self.min_ratio != 1 and (others or self.kind is not ClaimKind.difference):
            what = f"{others[0]} is not compared by ratio" if others else f"the claim is of kind {self.kind}"
            raise ValueError(f"min_ratio: is for a difference of metrics that are compared by ratio, but {what}")
        limited = self.kind is ClaimKind.limit
        if limited != (self.limit is not None) or (limited and (others or not 0 < (self.limit or 0) < math.inf)):
            raise ValueError(
                "limit: must be a number above 0 for a claim of kind limit, whose metrics are compared by ratio, and"
                f" null for others, not {self.limit}"
            )

    def _check_rows(self) -> None:
        """Raise ValueError for a row without the cells that the claim's kind compares."""
        for row, sides in self.rows.items():
            if self.kind is ClaimKind.spread and not sides.minus:
                raise ValueError(f"rows.{row}.minus: must name the cell whose standard deviation is compared")
            if self.kind is ClaimKind.curves and not len(sides.plus) == len(sides.minus) == 2:
                raise ValueError(f"rows.{row}: must have two cells in plus and two in minus, whose curves are compared")
            if self.kind in (ClaimKind.published, ClaimKind.limit) and (sides.minus or len(sides.plus) > 1):
                raise ValueError(f"rows.{row}: must be one cell, which is compared with a number")

    @property
    def correlates(self) -> bool:
        """Whether its test is a rank correlation over settings."""
        return self.kind in (ClaimKind.correlation, ClaimKind.trend)


def rows_of(rows: dict[str, Sides], for_each: dict[str, dict[str, str]]) -> dict[str, Sides]:
    """The ``rows`` once for every combination of the placeholders of ``for_each``, the last of which varies fastest.

    ``{method}`` stands for a title in the names of rows, and for its value in cells. Raises ValueError for an unknown
    placeholder, one without values, and two rows of one name.
    """
    if not for_each:
        return rows
    if empty := [name for name, values in for_each.items() if not values]:
        raise ValueError(f"for_each.{empty[0]}: must have at least one value")
    expanded = dict[str, Sides]()
    for combination in product(*(values.items() for values in for_each.values())):
        titles = {name: title for name, (title, _) in zip(for_each, combination, strict=True)}
        values = {name: value for name, (_, value) in zip(for_each, combination, strict=True)}
        for row, sides in rows.items():
            plus, minus = (tuple(_filled(cell, values) for cell in cells) for cells in (sides.plus, sides.minus))
            title = _filled(row, titles)
            if title in expanded:
                raise ValueError(f"rows: {row!r} gives {title!r} twice; must name every placeholder of for_each")
            expanded[title] = Sides(plus, minus)
    return expanded


def _filled(text: str, values: dict[str, str]) -> str:
    """``text`` with its ``{placeholders}`` replaced."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(f"rows: {found[0]} is not among for_each: {', '.join(values)}")
        return values[found[1]]

    return re.sub(r"\{([^{}]*)\}", value, text)


@dataclass(frozen=True)
class ClaimScope:
    """Which records are tested: those of each protocol by itself, in one profile and precision."""

    protocols: tuple[str, ...] = ("authors_code", "paper_text")
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        self.selections()

    def selections(self) -> dict[str, RunSelection]:
        """The runs of each protocol. Raises ValueError."""
        if not self.protocols:
            raise ValueError("protocols: must be at least one")
        return {name: RunSelection(name, self.profile, self.precision, self.seeds) for name in self.protocols}

    def file(self, page: str) -> str:
        """The name of the page's file: ``page``, with the profile and precision if they are not the papers'."""
        path, papers = PurePath(page), ClaimScope()
        others = [self.profile] if self.profile != papers.profile else []
        others += [self.precision] if self.precision != papers.precision else []
        return "-".join([path.stem, *others]) + path.suffix
