"""The settings of the report (configs/report.yaml): what it shows, in the papers' own order."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.table import RunSelection

WORDS = ("estimate", "interval", "published", "seeds", "verdict")  # of a finding


@dataclass(frozen=True)
class Part:
    """A table or a figure of a paper, in each of the given scopes."""

    label: str  # "Table 2"
    table: str | None = None  # a name in configs/table/
    figure: str | None = None  # a name in configs/figure/
    scopes: tuple[RunSelection, ...] = (RunSelection(),)
    shown: int = 1  # measures of the table that are not folded

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.figure):
            raise ValueError(f"table, figure: {self.label!r} must name one of them")
        if not self.scopes:
            raise ValueError("scopes: must be at least one")
        if self.shown < 1:
            raise ValueError(f"shown: must be at least 1, not {self.shown}")


@dataclass(frozen=True)
class Paper:
    """A part of the report: a paper with its tables and figures, and the pages of claims about it."""

    title: str  # as the heading
    short: str  # in filters and lists
    introduction: str
    parts: tuple[Part, ...] = ()
    claims: tuple[tuple[str, ...], ...] = ()  # pages of configs/verdicts.yaml, each as the overrides that make it
    source: str = ""  # where to read it


@dataclass(frozen=True)
class Finding:
    """A line of the summary, with the numbers of a test."""

    text: str  # may contain {estimate} and the other `WORDS`
    claim: str  # how the claim's statement begins
    row: str
    protocol: str
    metric: str  # a name of `METRICS`
    page: tuple[str, ...] = ()  # of configs/verdicts.yaml, as overrides
    number: str = ""  # what the estimate is, if it is one of the large numbers at the top

    def __post_init__(self) -> None:
        for _, word, *_ in Formatter().parse(self.text):
            if word is not None and word not in WORDS:
                raise ValueError(f"text: {{{word}}} must be one of {{{'}, {'.join(WORDS)}}}")
        if self.metric not in METRICS:
            raise ValueError(f"metric: must be one of {', '.join(METRICS)}, not {self.metric!r}")


@dataclass(frozen=True)
class Comparison:
    """The chart that compares methods: what its axes are, and the tables whose rows have both numbers."""

    parts: tuple[Part, ...]
    accuracies: tuple[str, ...]  # names of `METRICS`: of several, the first that a table has
    curvatures: tuple[str, ...]


@dataclass(frozen=True)
class ReportConfig:
    """The settings of configs/report.yaml, without those of the runtime."""

    title: str
    introduction: str
    papers: dict[str, Paper]
    findings: tuple[Finding, ...]
    headline: str  # the name of a file in results/figures/ without its ending
    headline_caption: str
    comparison: Comparison
    causes: tuple[tuple[str, ...], ...]  # pages of configs/verdicts.yaml that are drawn as estimates with intervals
    networks: dict[str, str]  # the papers' names of networks, by the name in records
    data_sets: dict[str, str]
    glossary: dict[str, str]  # terms of the page

    def __post_init__(self) -> None:
        if not self.papers:
            raise ValueError("papers: must be at least one")
