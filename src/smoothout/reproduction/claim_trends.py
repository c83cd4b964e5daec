"""Values for claims about correlations, trends and learning curves, read from records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_values import MetricValues
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.table import TablePlan
from smoothout.results.learning_curves import curve_distance
from smoothout.results.records import Record
from smoothout.results.trend import Point, Setting

CURVES_APART = "distance between learning curves (training and validation accuracy), points"
_LEAST_LOSS = 2.0**-126  # stands for losses that float32 rounds to 0


class Lost(TypedDict):
    """How many runs of a correlation have no value, or one of weights that were trained again."""

    failed: int
    diverged: int
    retrained: int


class Run(NamedTuple):
    """A run whose flatness was measured, with its accuracy."""

    flatness: float
    accuracy: float
    loss: float  # log2 of the training loss
    network: str  # with the data set
    setting: str  # the same for runs that differ in their seed only


def read_runs(plans: Sequence[TablePlan], metric: str, runtime: Runtime) -> tuple[list[Run], Lost]:
    """The runs of the tables, each once, with the sharpness ``metric`` and the accuracy of the same weights."""
    runs = dict[str, Run]()  # by digest, because tables share runs
    failed, diverged, retrained = set[str](), set[str](), set[str]()
    weights = METRICS[metric].analysis.checkpoint
    for plan in plans:
        for row, method in plan.runs:
            cells = [plan.cell(row, method, name) for name in (metric, str(weights))]
            sharpness, accuracy = (MetricValues.read(cell, runtime) for cell in cells)
            failed |= {accuracy.records[seed].digest for seed in sharpness.failed & accuracy.values.keys()}
            diverged |= {accuracy.records[seed].digest for seed in accuracy.diverged}
            for seed in sharpness.values.keys() & accuracy.values.keys():
                record = accuracy.records[seed]
                loss = math.log2(max(record.outcome[weights]["train_loss"], _LEAST_LOSS))
                network = f"{record.labels['model']}, {record.labels['data']}"
                setting = cells[1].first_job.digest
                retrained |= {record.digest} if seed in sharpness.retrained else set()
                runs[record.digest] = Run(-sharpness.values[seed], accuracy.values[seed], loss, network, setting)
    return list(runs.values()), Lost(failed=len(failed), diverged=len(diverged), retrained=len(retrained))


def read_points(plans: Sequence[TablePlan], metric: str, runtime: Runtime) -> tuple[list[Point], Lost]:
    """The number ``metric`` of each run of the tables, each run once, negated if a trend claims that it falls."""
    sign = -1 if METRICS[metric].ratio_scale else 1  # accuracies are claimed to rise, what is compared by ratio to fall
    points = dict[str, Point]()  # by the training's digest, because tables share runs
    failed, diverged, retrained = set[str](), set[str](), set[str]()
    for plan in plans:
        for (row, method), runs in plan.runs.items():
            values = plan.cell(row, method, metric).values(runtime)
            failed |= {runs.jobs[seed].digest for seed in values.failed}
            diverged |= {runs.jobs[seed].digest for seed in values.diverged}
            retrained |= {runs.jobs[seed].digest for seed in values.retrained}
            for seed, value in values.values.items():
                if training := find_record(runs.jobs[seed], runtime):
                    points[training.digest] = Point(Setting.of(training), seed, sign * value)
    return list(points.values()), Lost(failed=len(failed), diverged=len(diverged), retrained=len(retrained))


def curves_nearer(
    plus: Sequence[Mapping[int, Record]], minus: Sequence[Mapping[int, Record]], seeds: Sequence[int]
) -> list[float]:
    """How much nearer the learning curves of the two trainings ``plus`` are than those of ``minus``, in points.

    The records are by seed, and so is the result.
    """
    return [
        curve_distance(*(records[seed] for records in minus)) - curve_distance(*(records[seed] for records in plus))
        for seed in seeds
    ]
