"""Details of the numbers in the report: values by seed, records, commands, and the curves of trainings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from smoothout.common.formatting import format_decimal, format_hours
from smoothout.config.experiment import Experiment
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import CellSpec, CellValues, device_name, missing_hours
from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.reproduction.metrics import METRICS
from smoothout.results.records import Record

DIGITS = 4  # significant ones of a curve's points
SEARCH_FAILED = "the search ended where it began, so it has no value"
CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


class Evidence:
    """Every number that the report can open, each once; pages refer to them by their place in ``numbers``.

    ``names`` are the papers' names of networks and data sets, by those in records.
    """

    def __init__(self, runtime: Runtime, names: Mapping[str, str]) -> None:
        self._runtime, self._names = runtime, names
        self.costs = RuntimeEstimator(runtime)  # reads all trainings once
        self._known = dict[tuple[Any, ...], int]()
        self.numbers = list[dict[str, Any]]()
        self.records = dict[str, dict[str, str]]()  # by name: what made it
        self.runs = dict[str, dict[str, Any]]()  # trainings by name: labels and curves

    def network(self, job: Job) -> str:
        """The network and data set of a training, or of the one that is analyzed."""
        labels = job.training_job.settings.labels
        return f"{self._name(labels['model'])} on {self._name(labels['data'])}"

    def _name(self, recorded: str) -> str:
        return self._names.get(recorded, recorded)

    def of_cell(self, cell: CellSpec, title: str) -> int:
        """The place of a table's number, which may be in several tables and claims: the first title is kept."""
        key = (cell.metric, *(job.digest for job in cell.jobs.values()))
        if key not in self._known:
            self._known[key] = self._add(self._number(cell, title))
        return self._known[key]

    def of_difference(
        self, title: str, measured: str, values: Mapping[int, float], compared: Sequence[int], claim: int | None
    ) -> int:
        """The place of a difference between the numbers at the places ``compared``, given by seed.

        ``claim`` is the place of the test that its verdict is from.
        """
        rows = [{"seed": seed, "value": f"{value:+.2f}"} for seed, value in values.items()]
        number = {"title": title, "measured": measured, "values": rows, "compared": list(compared)}
        return self._add(number | ({} if claim is None else {"claim": claim}))

    def of_test(self, test: ClaimTest, title: str, facts: Mapping[str, str], compared: Sequence[int]) -> int:
        """The place of a claim's test: its line on the page of claims, and the cells that it compares."""
        key = ("test", id(test))
        if key not in self._known:
            shown = {name: text for name, text in facts.items() if text}
            self._known[key] = self._add({"title": title, "facts": shown, "compared": list(compared)})
        return self._known[key]

    def _add(self, number: dict[str, Any]) -> int:
        self.numbers.append(number)
        return len(self.numbers) - 1

    def _number(self, cell: CellSpec, title: str) -> dict[str, Any]:
        read = cell.values(self._runtime)
        hours = missing_hours(cell, read, self.costs)
        missing, by_ratio = sorted(cell.jobs.keys() - read.records.keys()), METRICS[cell.metric].ratio_scale
        return {
            "title": title,
            "scope": ", ".join(_scope(cell.command)),
            "command": cell.command,
            "published": "" if cell.published is None else format_decimal(cell.published.value, 4 if by_ratio else 2),
            "missing": missing,
            "cost": "" if None in hours else format_hours(hours),
            "values": [self._value(cell, seed, record, read) for seed, record in sorted(read.records.items())],
        }

    def _value(self, cell: CellSpec, seed: int, record: Record, read: CellValues) -> dict[str, Any]:
        number = read.values.get(seed)
        note = "diverged" if seed in read.diverged else SEARCH_FAILED if seed in read.failed else ""
        note = note or ("on weights that were trained again" if seed in read.retrained else "")
        self.records[record.name] = _made_by(record)
        training = find_record(cell.jobs[seed].training_job, self._runtime)
        if training is not None:
            self._add_run(training, cell.jobs[seed].training_job, cell.command)
        return {
            "seed": seed,
            "value": "" if number is None else _format(number, METRICS[cell.metric].ratio_scale),
            "note": note,
            "record": record.name,
            "run": training.name if training else "",
        }

    def _add_run(self, record: Record, job: Job, command: str) -> None:
        if record.name in self.runs or not isinstance(job.settings, Experiment):
            return
        self.records[record.name] = _made_by(record)
        labels = record.labels
        protocol, *_ = _scope(command)
        words = [f"{self.network(job)}, {labels['batch']}", labels["method"], f"{labels['epochs']} epochs", protocol]
        self.runs[record.name] = {
            "name": ", ".join([*words, f"seed {labels['seed']}"]),
            "curves": {name: points for name, points in _curves(record, job.settings).items() if points},
        }


def _made_by(record: Record) -> dict[str, str]:
    """The machine and the versions that made a record."""
    where = record.environment
    versions = [f"Python {where['python']}", *(f"{name} {version}" for name, version in where["versions"].items())]
    return {"kind": record.kind, "machine": device_name(record), "versions": ", ".join(versions)}


def _curves(record: Record, settings: Experiment) -> dict[str, list[float | None]]:
    """A training by epoch, with what its settings say of the learning rate and the strength of the noise."""
    recorded, epochs = record.outcome["curves"], len(record.outcome["curves"]["train_loss"])
    rates = [settings.optimizer.lr * settings.schedule.lr_factor(epoch, settings.batch) for epoch in range(epochs)]
    strength_at = getattr(settings.method, "strength_at", None)  # methods without noise have none
    strengths = [strength_at(epoch, epochs) for epoch in range(epochs)] if strength_at else []
    curves: dict[str, list[float | None]] = {name: recorded[name] for name in CURVES if name in recorded}
    curves |= {"lr": [*rates], "strength": [*strengths] if any(strengths) else []}
    curves |= {"curvature": [epoch["whole"][0] for epoch in record.outcome.get("curvature", [])]}
    return {name: [None if p is None else float(f"{p:.{DIGITS}g}") for p in points] for name, points in curves.items()}


def _format(number: float, by_ratio: bool) -> str:
    return f"{number:.6g}" if by_ratio else format_decimal(number, 2)


def _scope(command: str) -> list[str]:
    """The protocol and the profile of a command, and the precision if the command names it."""
    given = dict(part.split("=", 1) for part in shlex.split(command) if "=" in part)
    return [given[key] for key in ("protocol", "profile", "precision") if key in given]
