"""A table as the jobs that it needs: which are there, what the others would cost, and its cells from the records."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from smoothout.analysis.recorded import RunningAverages, Sharpness
from smoothout.analysis.sharpness import Convention
from smoothout.analysis.subject import Weights
from smoothout.choices import check_seeds, keep_members
from smoothout.entries import Entry, epoch_seconds
from smoothout.evaluation import Precision
from smoothout.jobs import of_other_weights
from smoothout.ledger import Record
from smoothout.settings import Experiment, SettingsError, chosen, compose_config, experiment
from smoothout.tables import Block, Cell, Table, difference, published_numbers
from smoothout.work import Job, Workplace

RECOMPUTED = (
    "Running averages recomputed: the same weights, with BatchNorm's averages taken over the training images anew, not"
    " augmented (so a network that learnt from augmented images gets averages of others, and may do worse). Those that"
    " training leaves lag behind weights that move fast, most of all where an epoch is a few updates; and SmoothOut"
    " gathers them under noise."
)


@dataclass(frozen=True)
class Scope:
    """Which account of the experiments, how much of them, and which seeds a table is made of."""

    regime: str = "released"
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        keep_members(self)
        check_seeds(self.seeds)

    def overrides(self) -> list[str]:
        """As overrides of train.yaml, but for the seed."""
        chosen = [f"regime={self.regime}", f"profile={self.profile}"]
        return chosen if self.precision is Precision.float32 else [*chosen, f"precision={self.precision}"]


class Reproduction:
    """One of configs/table/: its rows and methods as jobs. Raises SettingsError on a table that does not compose."""

    def __init__(
        self, table: dict[str, Any], scope: Scope, configs: Path, published: Path, only: Sequence[str] | None = None
    ) -> None:
        _check(table, published)
        self.table, self.scope, self._configs, self._folder = table, scope, configs, published
        self._published = published_numbers(published / table["published"]) if table["published"] else None
        self.rows = [row for row in table["rows"] if only is None or any(part in row["name"] for part in only)]
        if not self.rows:
            raise SettingsError(
                f"rows: {list(only or [])} is in none of: {'; '.join(r['name'] for r in table['rows'])}"
            )
        self.entries = [entry for row in self.rows for entry in self._row(row)]

    def jobs(self) -> list[Job]:
        """Every job that the table needs, each once: trainings before what is measured on them."""
        jobs = {job.digest: job for entry in self.entries for job in entry.jobs.values()}
        return sorted(jobs.values(), key=lambda job: job.kind != Experiment.kind)

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By row: its jobs, with the config's estimate of the seconds that an epoch takes."""
        rows: dict[str, dict[Job, float | None]] = {}
        for entry in self.entries:
            rows.setdefault(entry.row, {}).update(dict.fromkeys(entry.jobs.values(), entry.epoch_seconds))
        return rows

    def _row(self, row: dict[str, Any]) -> Iterator[Entry]:
        for method, own in self._methods(row).items():
            chosen = [*row["overrides"], *self.table["methods"][method]["overrides"], *own, *self.scope.overrides()]
            overrides = list({override.partition("=")[0]: override for override in chosen}.values())  # the last counts
            config = compose_config(self._configs, "train", overrides)
            runs = {seed: Job(experiment(config | {"seed": seed})) for seed in self.scope.seeds}
            arguments = " ".join([*overrides, _seeds_argument(self.scope.seeds)])
            entry = Entry(
                row["name"],
                f"{method} best",
                runs,
                lambda record: 100 * float(record.outcome["best"]["test_accuracy"]),
                self._number(row, method, "accuracy"),
                f"python scripts/train.py {arguments}",
                epoch_seconds(config),
                config["profile"]["analysis_examples"],
            )
            yield entry
            yield replace(
                entry,
                column=f"{method} last",
                read=lambda record: 100 * float(record.outcome["last"]["test_accuracy"]),
                published=None,
            )
            for weights in self._recomputed():
                yield entry.measured(
                    RunningAverages(weights=weights),
                    recomputed_accuracy,
                    column=f"{method} {weights} recomputed",
                    command=f"python scripts/analyze.py analysis=averages analysis.weights={weights} {arguments}",
                )
            for convention in map(Convention, self.table["sharpness"]):
                yield entry.measured(
                    Sharpness(convention=convention),
                    lambda record: None if record.outcome["failed"] else float(record.outcome["value"]),
                    column=f"{method} sharpness {convention}",
                    published=self._number(row, method, "sharpness") if convention == "released" else None,
                    command=f"python scripts/analyze.py analysis.convention={convention} {arguments}",
                )

    def _recomputed(self) -> list[Weights]:
        """The weights whose accuracy the table shows with BatchNorm's running averages recomputed, too."""
        return [Weights(name) for name in self.table.get("recomputed", ())]

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
        found = self._published
        for key, value in (row["match"] | details.get("match", {})).items():
            found = found[found[key] == value]
        if len(found) != 1:
            raise SettingsError(f"table: {row['name']}: {method} matches {len(found)} published rows instead of 1")
        number = found[column].iloc[0]
        return None if pd.isna(number) else float(number)

    def as_recorded(self, place: Workplace) -> Reproduction:
        """The same for every seed that has a record of its rows; as it is where none has."""
        labels = {int(record.labels["seed"]) for record in place.ledger.records(Experiment.kind)}
        known = self._of_seeds(labels) if labels else self
        jobs = [(seed, job) for entry in known.entries for seed, job in entry.jobs.items()]
        there = {seed for seed, job in jobs if place.ledger.find(job.kind, job.digest)}
        return self._of_seeds(there) if there else self

    def _of_seeds(self, seeds: set[int]) -> Reproduction:
        scope = replace(self.scope, seeds=tuple(sorted(seeds)))
        return Reproduction(self.table | {"rows": self.rows}, scope, self._configs, self._folder)

    def table_from(self, place: Workplace) -> Table:
        """The table that the present records make."""
        costs = Costs(place)
        cells = {(entry.row, entry.column): _cell(entry, place, costs) for entry in self.entries}
        for row, (quantity, method, better, worse) in product(self.rows, self._differences()):
            if not {better, worse} <= set(self._methods(row)):
                continue
            for after in ("", *(f" {weights} recomputed" for weights in self._recomputed())):
                one, other = (cells[row["name"], f"{which}{after or ' best'}"] for which in (better, worse))
                published = None if after else self._number(row, method, quantity)
                column = f"{method} {quantity}{after}"
                cells[row["name"], column] = difference(one, other, published, column)
        return Table(
            name=self.table["name"],
            title=self.table["title"],
            regime=self.scope.regime,
            profile=self.scope.profile,
            precision=self.scope.precision.value,
            seeds=self.scope.seeds,
            cells=list(cells.values()),
            blocks=self._blocks(),
            notes=[*self.table["notes"], *([RECOMPUTED] if self._recomputed() else []), *self._other_weights(place)],
        )

    def _other_weights(self, place: Workplace) -> list[str]:
        """A note, where a row's sharpness and accuracy are not those of the same weights."""
        names = of_other_weights(self.jobs(), place)
        if not names:
            return []
        return [
            f"The sharpness of {', '.join(names)} is that of weights that were trained again on another machine, where"
            " sums are rounded otherwise; the accuracy is the first ones'."
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
        blocks = [
            Block("Test accuracy in %, best epoch", best | differences["improvement"]),
            Block("Test accuracy in %, last epoch", {title: f"{m} last" for m, title in titles.items()}),
        ]
        for weights in self._recomputed():
            after = f" {weights} recomputed"
            columns = {title: f"{method}{after}" for method, title in titles.items()}
            changes = {title: f"{column}{after}" for title, column in differences["improvement"].items()}
            blocks.append(Block(f"Test accuracy in %, {weights} epoch, running averages recomputed", columns | changes))
        if differences["gap"]:
            blocks.append(Block("Generalisation gap: how far below the small batch, best epochs", differences["gap"]))
        for convention in self.table["sharpness"]:
            columns = {title: f"{method} sharpness {convention}" for method, title in titles.items()}
            blocks.append(Block(f"Sharpness in %, convention `{convention}`", columns, digits=4))
        return blocks


def _check(table: dict[str, Any], published: Path) -> None:
    """Raise SettingsError where the table's config lacks something, or has it in another form."""
    texts = tuple[str, ...]
    top: dict[str, Any] = {"name": str, "title": str, "published": str | None, "notes": texts}
    top["sharpness"] = tuple[Convention, ...]
    if "recomputed" in table:
        top["recomputed"] = tuple[Weights, ...]
    named = chosen(table, "table.", **top).published
    if named and not (published / named).is_file():
        known = ", ".join(sorted(path.name for path in published.glob("*.csv")))
        raise SettingsError(f"table.published: {named!r} is not one of {known}")
    methods, rows = table.get("methods"), table.get("rows")
    if not (isinstance(methods, dict) and methods and isinstance(rows, list) and rows):
        raise SettingsError("table: needs methods (a group, each with title and overrides) and a list of rows")
    for name, method in methods.items():
        chosen(method, f"table.methods.{name}.", title=str, overrides=texts)
    for number, row in enumerate(rows):
        key = f"table.rows.{number}."
        chosen(row, key, name=str, overrides=texts)
        if named and not isinstance(row.get("match"), dict):
            raise SettingsError(f"{key}match: must say which rows of {named} these are, column: value")
        own = row.get("methods", {})
        if not isinstance(own, dict):
            raise SettingsError(f"{key}methods: must be a group, each with its overrides, not {own!r}")
        for name in own:
            if name not in methods:
                raise SettingsError(f"{key}methods: {name!r} is not one of {', '.join(methods)}")
            chosen(own, f"{key}methods.", **{name: texts})
    if table.get("small", next(iter(methods))) not in methods:
        raise SettingsError(f"table.small: {table['small']!r} is not one of {', '.join(methods)}")


def _seeds_argument(seeds: Sequence[int]) -> str:
    return f"seed={seeds[0]}" if len(seeds) == 1 else f"-m seed={','.join(map(str, seeds))}"


def _cell(entry: Entry, place: Workplace, costs: Costs) -> Cell:
    """The cell that the entry's present records make."""
    reading = entry.reading(place)
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


def recomputed_accuracy(record: Record) -> float:
    """Test accuracy in % with the running averages recomputed, from a record of RunningAverages."""
    return 100 * float(record.outcome["recomputed"]["test"]["accuracy"])


def device_name(record: Record) -> str:
    """What a record was made on, in a few words."""
    where = record.environment
    if where["device"] != "cpu":
        return str(where["device"])
    return f"{where['processor']}, {where['threads']} thread{'s' if where['threads'] > 1 else ''}"


class Costs:
    """Estimates of what missing jobs would take on this device: from records of their like, else from the config."""

    def __init__(self, place: Workplace) -> None:
        self._seconds: dict[tuple[str, str, int], list[float]] = {}
        for record in place.ledger.readable(Experiment.kind):
            on_cpu = record.environment["device"] == "cpu"
            if on_cpu == (place.device.type == "cpu") and record.outcome["curves"]["seconds"]:
                labels = record.labels
                key = (labels["model"], labels["data"], labels["batch"])
                seen = statistics.median(record.outcome["curves"]["seconds"]) / record.outcome["examples"]["train"]
                self._seconds.setdefault(key, []).append(seen)

    def hours(self, job: Job, epoch_seconds: float | None) -> float | None:
        """Hours that ``job`` would take; ``epoch_seconds`` is the config's estimate for all training examples."""
        run = job.run.settings
        if not isinstance(run, Experiment):
            return None
        labels = run.labels
        seen = self._seconds.get((labels["model"], labels["data"], labels["batch"]))
        whole = replace(run.data, train_examples=None).usual_examples[0]
        if not seen and epoch_seconds is None:
            return None
        example_seconds = statistics.median(seen) if seen else (epoch_seconds or 0.0) / whole
        if job.kind == Experiment.kind:
            return float(run.schedule.epochs * run.data.usual_examples[0] * example_seconds / 3600)
        sizes = run.data.usual_examples
        passes: int = job.settings.evaluations(*sizes) * job.settings.examples_seen(*sizes)
        return passes * example_seconds / 3600
