"""The settings of a table (configs/table/) and of a figure (configs/figure/).

``recorded_as`` is the name that a key had in earlier versions; it still works, with a warning.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.common.files import check_name
from smoothout.config.build import validate
from smoothout.jobs.runtime import RUNTIME_KEYS
from smoothout.reproduction.choose_strength import Grid
from smoothout.reproduction.metrics import METRICS, current_metrics

DEFAULT_METRICS = ("best", "late", "last")
SCOPE = ("protocol", "profile", "precision", "seed")  # of a table or a figure as a whole


def check_overrides(key: str, overrides: Iterable[str]) -> None:
    """Raise ValueError for overrides of what ``scope`` decides for all of a table or a figure, or of the runtime."""
    for override in overrides:
        name = override.lstrip("+").partition("=")[0]
        group = name.partition(".")[0]
        if name in SCOPE:
            raise ValueError(f"{key}: {override}: has no effect here; set scope.{name}{'s' * (name == 'seed')}")
        if group in SCOPE:
            raise ValueError(f"{key}: {override}: is decided by scope.{group}; for fewer epochs use epoch_fraction=...")
        if group in RUNTIME_KEYS:
            raise ValueError(f"{key}: {override}: has no effect here; give {name}=... to the program")


@dataclass(frozen=True)
class MethodConfig:
    """A way to train that a table compares: one column of each block."""

    title: str  # heading of the column
    overrides: tuple[str, ...]  # of configs/train.yaml
    match: dict[str, Any] = field(default_factory=dict)  # adds to the row's ``match`` of published lines
    published: dict[str, str] = field(default_factory=dict)  # columns of the published CSV file, by metric
    accuracy: str | None = None  # the column for metrics whose ``published`` is this key; the next three likewise
    improvement: str | None = None
    gap: str | None = None
    sharpness: str | None = None
    # Whether it is shown only in rows whose ``methods`` name it.
    only_if_named: bool = field(default=False, metadata={"recorded_as": "by_name"})
    chosen_strength: bool = False  # whether its strength is what the table's ``strength_choice`` chooses
    # Separate values to choose from, {method.KEY: [VALUE, ...]}, with the other settings of ``strength_choice``.
    strengths: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_overrides("overrides", self.overrides)
        if len(self.strengths) > 1 or not all(key.startswith("method.") for key in self.strengths):
            raise ValueError(f"strengths: must name one setting, as method.KEY, not {', '.join(self.strengths)}")
        if self.strengths and self.chosen_strength:
            raise ValueError("strengths, chosen_strength: must not be given both")

    @property
    def strength_field(self) -> str:
        """The method's setting that is chosen."""
        return next(iter(self.strengths), "method.a").removeprefix("method.")

    @property
    def is_chosen(self) -> bool:
        """Whether its strength is chosen on held-out images."""
        return self.chosen_strength or bool(self.strengths)

    def with_strength(self, strength: float) -> MethodConfig:
        """The method at ``strength``."""
        name = self.strength_field
        return replace(
            self,
            title=f"{self.title}, {name} = {strength:g}",
            overrides=(*self.overrides, f"method.{name}={strength}"),
            strengths={},
            chosen_strength=False,
        )


@dataclass(frozen=True)
class RowConfig:
    """A setting that a table's methods are compared in.

    ``published_elsewhere`` has numbers of other papers, as {METHOD METRIC: [FILE, LINE, COLUMN]}; LINE is the first
    entry of a line of results/published/FILE.
    """

    name: str  # heading of the row
    overrides: tuple[str, ...]  # of configs/train.yaml; those of the method come after them
    match: dict[str, Any] | None = None  # the line of the published CSV file, as {column: value}
    methods: dict[str, tuple[str, ...]] | None = None  # each with its own overrides; None: all but ``only_if_named``
    published_elsewhere: dict[str, tuple[str, ...]] = field(default_factory=dict, metadata={"recorded_as": "also"})
    # Keep the baseline and only this many methods: those whose chosen strength did best on the held-out images.
    best_methods: int | None = None

    def __post_init__(self) -> None:
        check_overrides("overrides", self.overrides)
        for name, overrides in (self.methods or {}).items():
            check_overrides(f"methods.{name}", overrides)


@dataclass(frozen=True)
class StrengthChoiceConfig:
    """The trainings with held-out images among which the strength of a table's methods is chosen."""

    overrides: tuple[str, ...]  # of configs/train.yaml
    grid: Grid


@dataclass(frozen=True)
class TableConfig:
    """A table: what is compared, in which settings, by which numbers.

    The first method that is not ``small_batch_method`` is the baseline of every improvement; every gap is measured
    against ``small_batch_method``, and a table without it has none. Published gaps and improvements are of
    ``accuracy``.
    """

    name: str  # of its files
    title: str  # above it
    methods: dict[str, MethodConfig]
    rows: tuple[RowConfig, ...]  # its rows
    published: str | None = None  # the CSV file in results/published/ with the paper's numbers, or None
    metrics: tuple[str, ...] = DEFAULT_METRICS  # names of `METRICS`, in the order of the table's blocks
    accuracy: str | None = "best"  # the one of them that published gaps are of; None if the table shows no differences
    geometric: bool = True  # numbers compared by ratio have geometric mean and range, else mean and standard deviation
    protocol: str | None = None  # what scope.protocol is by default; None is that of configs/reproduce.yaml
    small_batch_method: str | None = field(default=None, metadata={"recorded_as": "small"})
    strength_choice: StrengthChoiceConfig | None = None  # for methods with ``chosen_strength``
    network: str | None = None  # free for interpolation in ``rows``
    notes: tuple[str, ...] = ()  # paragraphs below the table

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if not self.methods or not self.rows:
            raise ValueError("methods, rows: must have at least one each")
        for what, given in (
            ("rows: name", [row.name for row in self.rows]),
            ("methods: title", [method.title for method in self.methods.values()]),
        ):
            if twice := [name for name, uses in Counter(given).items() if uses > 1]:
                raise ValueError(f"{what}: {twice[0]!r} is used twice; must be unique")
        object.__setattr__(self, "metrics", current_metrics(self.metrics))
        self._check_accuracy()
        self._check_choice()
        self._check_names()

    def _check_choice(self) -> None:
        """Raise ValueError if methods and rows need a choice of strength that the table does not have."""
        chosen = [name for name, method in self.methods.items() if method.is_chosen]
        if chosen and self.strength_choice is None:
            raise ValueError(f"strength_choice: must be given, because {chosen[0]} has chosen_strength")
        if chosen and next((name for name in self.methods if name != self.small_batch_method), None) in chosen:
            raise ValueError(f"methods.{chosen[0]}.chosen_strength: must be false for the baseline, the first method")
        if any(row.best_methods is not None for row in self.rows) and not chosen:
            raise ValueError("rows: best_methods needs methods whose strength is chosen")

    def _check_names(self) -> None:
        """Raise ValueError for a name of a method or a metric that the table does not have."""
        if self.small_batch_method not in (None, *self.methods):
            raise ValueError(f"small_batch_method: {self.small_batch_method!r} is not one of {', '.join(self.methods)}")
        for method, settings in self.methods.items():
            if unknown := [name for name in settings.published if name not in self.metrics]:
                raise ValueError(
                    f"methods.{method}.published: {unknown[0]!r} is not one of metrics: {', '.join(self.metrics)}"
                )
        elsewhere = [
            f"{method} {name}" for method in self.methods for name in self.metrics if METRICS[name].published is None
        ]
        for index, row in enumerate(self.rows):
            for key, known, names in (
                ("methods", [*self.methods], row.methods or ()),
                ("published_elsewhere", elsewhere, row.published_elsewhere),
            ):
                if unknown := [name for name in names if name not in known]:
                    raise ValueError(f"rows.{index}.{key}: {unknown[0]!r} is not one of {', '.join(known)}")

    def methods_of(self, row: RowConfig) -> dict[str, tuple[str, ...]]:
        """The methods of a row without ``best_methods``, each with the overrides that the row adds."""
        if row.methods is not None:
            return row.methods
        return {name: () for name, method in self.methods.items() if not method.only_if_named}

    def _check_accuracy(self) -> None:
        """Raise ValueError unless ``accuracy`` is a metric of the table with differences, or the table has none."""
        compared = [name for name in self.metrics if METRICS[name].differences]
        if self.accuracy is None and (compared or self.small_batch_method):
            raise ValueError(
                "accuracy: must name the metric that improvements and gaps are of, because the table has"
                f" {compared[0] if compared else 'small_batch_method'}"
            )
        if self.accuracy is not None and self.accuracy not in compared:
            raise ValueError(
                f"metrics: must have {self.accuracy}, the accuracy that improvements and gaps are of, or accuracy must"
                f" be {' or '.join(compared) or 'null'}"
            )


@dataclass(frozen=True)
class PanelConfig:
    """A panel of a figure; every combination of the values in ``sweep`` is a training of each run."""

    kind: str  # a name in `PANEL_KINDS`
    title: str  # above it
    overrides: tuple[str, ...] = ()  # of configs/train.yaml, after those of the figure
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)  # overrides by name in the legend
    sweep: dict[str, tuple[Any, ...]] = field(default_factory=dict, metadata={"recorded_as": "over"})
    analysis: dict[str, Any] = field(default_factory=dict)  # settings of the kind's analysis
    options: dict[str, Any] = field(default_factory=dict, metadata={"recorded_as": "draw"})  # see `PANEL_KINDS`

    def __post_init__(self) -> None:
        check_overrides("overrides", self.overrides)
        for name, overrides in self.runs.items():
            check_overrides(f"runs.{name}", overrides)
        for key, values in self.sweep.items():
            if not values:
                raise ValueError(f"sweep.{key}: must have at least one value")


@dataclass(frozen=True)
class FigureConfig:
    """A figure."""

    name: str  # name of its files
    title: str  # above it
    panels: tuple[PanelConfig, ...]  # its panels, row by row
    overrides: tuple[str, ...] = ()  # overrides of configs/train.yaml for all panels
    columns: int | None = None  # panels in a row; None for all in one row
    protocol: str | None = None  # what scope.protocol is by default; None is that of configs/reproduce.yaml

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_overrides("overrides", self.overrides)
        if not self.panels:
            raise ValueError("panels: must be a list of at least one panel")
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"columns: must be null (all panels in one row) or at least 1, not {self.columns}")


def read_table(table: dict[str, Any], published: Path) -> TableConfig:
    """The settings of a composed config of configs/table/; ``published`` is the folder with the papers' numbers.

    Raises ConfigError.
    """
    if old := [key for key in ("recomputed", "sharpness") if key in table]:
        warnings.warn(f"table.{old[0]}: is now part of table.metrics", FutureWarning, stacklevel=2)
        recalibrated = [f"{weights}_recalibrated" for weights in table.get("recomputed", ())]
        metrics = [*DEFAULT_METRICS, *recalibrated, *(f"sharpness_{name}" for name in table.get("sharpness", ()))]
        table = {"metrics": metrics} | {key: value for key, value in table.items() if key not in old}
    settings = validate(TableConfig, table, "table.")
    files = sorted(path.name for path in published.glob("*.csv"))
    if settings.published and settings.published not in files:
        raise ConfigError(f"table.published: {settings.published!r} is not one of {', '.join(files)}")
    for index, row in enumerate(settings.rows):
        if settings.published and row.match is None:
            raise ConfigError(f"table.rows.{index}.match: must select lines of {settings.published}, as column: value")
        for cell, source in row.published_elsewhere.items():
            if len(source) != 3 or source[0] not in files:
                raise ConfigError(
                    f"table: {row.name}: published_elsewhere.{cell}: must be [FILE, LINE, COLUMN] of {published},"
                    f" not {source!r}"
                )
    return settings
