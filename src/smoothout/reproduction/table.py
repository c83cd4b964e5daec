"""A table as the jobs that it needs: which are there, what the others would cost, and its cells from the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, WhichWeights
from smoothout.common.enums import check_seeds, coerce_enum_fields
from smoothout.common.environment import device_of
from smoothout.common.errors import ConfigError
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, build_experiment
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import runs_with_other_weights
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.cells import (
    CellSpec,
    best_accuracy,
    epoch_seconds,
    last_accuracy,
    late_median_accuracy,
    recalibrated_accuracy,
    sharpness_value,
)
from smoothout.reproduction.schema import check_table, published_elsewhere
from smoothout.results.records import Record
from smoothout.results.tables import Block, Cell, Table, difference

EPOCHS = (
    "The best epoch is the best of all by the test split itself, as the papers report it: a maximum, so it is too high."
    " The median of the last quarter of the epochs chooses none."
)
RECOMPUTED = (
    "Running averages recomputed: the same weights, with BatchNorm's averages taken over the training images anew, not"
    " augmented (so a network that learnt from augmented images gets averages of others, and may do worse). Those that"
    " training leaves lag behind weights that move fast, most of all where an epoch is a few updates; and SmoothOut"
    " gathers them under noise."
)


@dataclass(frozen=True)
class RunSelection:
    """Which account of the experiments, how much of them, and which seeds a table is made of."""

    protocol: str = "authors_code"
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_seeds(self.seeds)

    def overrides(self) -> list[str]:
        """As overrides of train.yaml, but for the seed."""
        chosen = [f"protocol={self.protocol}", f"profile={self.profile}"]
        return chosen if self.precision is Precision.float32 else [*chosen, f"precision={self.precision}"]


def recorded_seeds(jobs: Callable[[set[int]], Iterable[Job]], runtime: Runtime) -> set[int]:
    """The seeds with a record of one of their ``jobs``, of all that were ever trained."""
    trained = {int(record.labels["seed"]) for record in runtime.records.records(Experiment.kind)}
    known = [job for job in jobs(trained) if isinstance(job.training_job.settings, Experiment)] if trained else []
    return {job.training_job.settings.seed for job in known if runtime.records.get(job.kind, job.digest)}


class TablePlan:
    """One of configs/table/: its rows and methods as jobs. Raises SettingsError on a table that does not compose."""

    def __init__(
        self,
        table: dict[str, Any],
        scope: RunSelection,
        configs: Path,
        published: Path,
        only: Sequence[str] | None = None,
    ) -> None:
        check_table(table, published)
        self.table, self.scope, self._configs, self._folder = table, scope, configs, published
        self._published = pd.read_csv(published / table["published"]) if table["published"] else None
        self.rows = [row for row in table["rows"] if only is None or any(part in row["name"] for part in only)]
        if not self.rows:
            raise ConfigError(f"rows: {list(only or [])} is in none of: {'; '.join(r['name'] for r in table['rows'])}")
        self.entries = [entry for row in self.rows for entry in self._row(row)]

    def jobs(self) -> list[Job]:
        """Every job that the table needs, each once: trainings before what is measured on them."""
        return with_dependencies(job for entry in self.entries for job in entry.jobs.values())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By row: its jobs, with the config's estimate of the seconds that an epoch takes."""
        rows: dict[str, dict[Job, float | None]] = {}
        for entry in self.entries:
            rows.setdefault(entry.row, {}).update(dict.fromkeys(entry.jobs.values(), entry.epoch_seconds))
        return rows

    def _row(self, row: dict[str, Any]) -> Iterator[CellSpec]:
        for method, own in self._methods(row).items():
            chosen = [*row["overrides"], *self.table["methods"][method]["overrides"], *own, *self.scope.overrides()]
            overrides = list({override.partition("=")[0]: override for override in chosen}.values())  # the last counts
            config = compose_config(self._configs, "train", overrides)
            run = build_experiment(config)
            runs = {seed: Job(replace(run, seed=seed)) for seed in self.scope.seeds}
            arguments = " ".join([*overrides, _seeds_argument(self.scope.seeds)])
            entry = CellSpec(
                row["name"],
                f"{method} best",
                runs,
                best_accuracy,
                self._number(row, method, "accuracy"),
                f"python scripts/train.py {arguments}",
                epoch_seconds(config),
                config["profile"]["analysis_examples"],
            )
            yield entry
            for column, read in ((f"{method} late", late_median_accuracy), (f"{method} last", last_accuracy)):
                yield replace(entry, column=column, read=read, published=published_elsewhere(row, column, self._folder))
            for weights in self._recomputed():
                column = f"{method} {weights} recomputed"
                yield entry.with_analysis(
                    RunningStatistics(checkpoint=weights),
                    recalibrated_accuracy,
                    column=column,
                    published=published_elsewhere(row, column, self._folder),
                    command="python scripts/analyze.py analysis=running_statistics"
                    f" analysis.checkpoint={weights} {arguments}",
                )
            for convention in map(Convention, self.table["sharpness"]):
                yield entry.with_analysis(
                    Sharpness(convention=convention),
                    sharpness_value,
                    column=f"{method} sharpness {convention}",
                    published=self._sharpness(row, method, convention),
                    command=f"python scripts/analyze.py analysis.convention={convention} {arguments}",
                )

    def _recomputed(self) -> list[WhichWeights]:
        """The weights whose accuracy the table shows with BatchNorm's running averages recomputed, too."""
        return [WhichWeights(name) for name in self.table.get("recomputed", ())]

    def _methods(self, row: dict[str, Any]) -> dict[str, list[str]]:
        """A row's methods, with what it overrides for each: those that it names, else all that need no naming."""
        common: dict[str, list[str]] = {
            method: [] for method, details in self.table["methods"].items() if not details.get("by_name")
        }
        methods: dict[str, list[str]] = row.get("methods", common)
        return methods

    def _number(self, row: dict[str, Any], method: str, quantity: str) -> float | None:
        """The published number of a row and method, None where the papers have none."""
        details = self.table["methods"][method]
        column = details.get(quantity)
        if self._published is None or column is None:
            return None
        found, match = self._published, row["match"] | details.get("match", {})
        if absent := [name for name in (*match, column) if name not in found]:
            raise ConfigError(f"table: {row['name']}: {method}: {self.table['published']} has no {absent[0]!r}")
        for key, value in match.items():
            found = found[found[key] == value]
        if len(found) != 1:
            raise ConfigError(f"table: {row['name']}: {method} matches {len(found)} published rows instead of 1")
        number = found[column].iloc[0]
        return None if pd.isna(number) else float(number)

    def _sharpness(self, row: dict[str, Any], method: str, convention: Convention) -> float | None:
        """SmoothOut's published sharpness is by the `released` convention; a row may name others' by another."""
        if convention is Convention.released:
            return self._number(row, method, "sharpness")
        return published_elsewhere(row, f"{method} sharpness {convention}", self._folder)

    def with_recorded_seeds(self, runtime: Runtime) -> TablePlan:
        """The same for every seed that has a record of its rows; as it is where none has."""
        there = recorded_seeds(lambda seeds: self._of_seeds(seeds).jobs(), runtime)
        return self._of_seeds(there) if there else self

    def _of_seeds(self, seeds: set[int]) -> TablePlan:
        scope = replace(self.scope, seeds=tuple(sorted(seeds)))
        return TablePlan(self.table | {"rows": self.rows}, scope, self._configs, self._folder)

    def render(self, runtime: Runtime) -> Table:
        """The table that the present records make."""
        costs = RuntimeEstimator(runtime)
        cells = {(entry.row, entry.column): _cell(entry, runtime, costs) for entry in self.entries}
        for row, (quantity, method, better, worse) in product(self.rows, self._differences()):
            if not {better, worse} <= set(self._methods(row)):
                continue
            for after in ("", " late", *(f" {weights} recomputed" for weights in self._recomputed())):
                one, other = (cells[row["name"], f"{which}{after or ' best'}"] for which in (better, worse))
                published = None if after else self._number(row, method, quantity)
                column = f"{method} {quantity}{after}"
                cells[row["name"], column] = difference(one, other, published, column)
        return Table(
            name=self.table["name"],
            title=self.table["title"],
            protocol=self.scope.protocol,
            profile=self.scope.profile,
            precision=self.scope.precision.value,
            seeds=self.scope.seeds,
            cells=list(cells.values()),
            blocks=self._blocks(),
            notes=[
                *self.table["notes"],
                EPOCHS,
                *([RECOMPUTED] if self._recomputed() else []),
                *self._other_weights(runtime),
            ],
        )

    def _other_weights(self, runtime: Runtime) -> list[str]:
        """A note, where what was measured after a row's training is not of the weights that its accuracy is of."""
        names = runs_with_other_weights(self.jobs(), runtime)
        if not names:
            return []
        return [
            f"Of {', '.join(names)}, sharpness or recomputed averages are those of weights that were trained again on"
            " another machine, where sums are rounded otherwise; the other accuracies are the first ones'."
        ]

    def _differences(self) -> list[tuple[str, str, str, str]]:
        """Quantity, method and the two methods whose difference it is: gains over the base, gaps to small batch."""
        methods, small = self.table["methods"], self.table.get("small")
        base = next(method for method in methods if method != small)
        gains = [("improvement", method, method, base) for method in methods if method not in (base, small)]
        gaps = [("gap", method, small, method) for method in methods if small and method != small]
        return gains + gaps

    def _blocks(self) -> list[Block]:
        titles = {method: details["title"] for method, details in self.table["methods"].items()}
        best = {title: f"{method} best" for method, title in titles.items()}
        differences: dict[str, dict[str, str]] = {"improvement": {}, "gap": {}}
        for quantity, method, better, worse in self._differences():
            differences[quantity][f"{titles[better]} - {titles[worse]}"] = f"{method} {quantity}"

        def accuracy(heading: str, after: str) -> Block:
            columns = {title: f"{method} {after}" for method, title in titles.items()}
            changes = {title: f"{column} {after}" for title, column in differences["improvement"].items()}
            return Block(f"Test accuracy in %, {heading}", columns | changes)

        blocks = [
            Block("Test accuracy in %, best epoch", best | differences["improvement"]),
            accuracy("median of the last quarter of the epochs", "late"),
            Block("Test accuracy in %, last epoch", {title: f"{m} last" for m, title in titles.items()}),
            *(accuracy(f"{w} epoch, running averages recomputed", f"{w} recomputed") for w in self._recomputed()),
        ]
        if differences["gap"]:
            blocks.append(Block("Generalisation gap: how far below the small batch, best epochs", differences["gap"]))
        for convention in self.table["sharpness"]:
            columns = {title: f"{method} sharpness {convention}" for method, title in titles.items()}
            blocks.append(Block(f"Sharpness in %, convention `{convention}`", columns, by_ratio=True))
        return blocks


def _seeds_argument(seeds: Sequence[int]) -> str:
    return f"seed={seeds[0]}" if len(seeds) == 1 else f"-m seed={','.join(map(str, seeds))}"


def _cell(entry: CellSpec, runtime: Runtime, costs: RuntimeEstimator) -> Cell:
    """The cell that the entry's present records make."""
    reading = entry.values(runtime)
    there = reading.records
    hours = [costs.hours(job, entry.epoch_seconds) for seed, job in entry.jobs.items() if seed not in there]
    return Cell(
        row=entry.row,
        column=entry.column,
        values=reading.values,
        failed=reading.failed,
        diverged=reading.diverged,
        published=entry.published,
        records=[record.name for record in there.values()],
        devices=sorted({device_name(record) for record in there.values()}),
        command=entry.command,
        hours=_total(hours),
    )


def _total(hours: Sequence[float | None]) -> float | None:
    """Of all ``hours``; None where one of them is unknown."""
    known = [one for one in hours if one is not None]
    return sum(known) if len(known) == len(hours) else None


def device_name(record: Record) -> str:
    """What a record was made on, in a few words."""
    where, device = record.environment, device_of(record.environment)
    if where["device"] != "cpu":
        return device
    return f"{device}, {where['threads']} thread{'s' if where['threads'] > 1 else ''}"
