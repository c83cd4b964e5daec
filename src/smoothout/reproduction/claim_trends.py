"""Values for claims about trends and about learning curves, read from the records of trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.table import TablePlan
from smoothout.results.learning_curves import curve_distance
from smoothout.results.records import Record
from smoothout.results.trend import Point, Setting

CURVES_APART = "distance between learning curves (training and validation accuracy), points"


def read_points(plans: Sequence[TablePlan], metric: str, runtime: Runtime) -> tuple[list[Point], dict[str, int]]:
    """The number ``metric`` of each run of the tables, negated if a trend claims that it falls, and counts of losses.

    These count the ``failed`` measurements, the ``diverged`` runs, and the runs whose weights were ``retrained``.
    """
    sign = -1 if METRICS[metric].ratio_scale else 1  # accuracies are claimed to rise, what is compared by ratio to fall
    points, lost = list[Point](), Counter[str](failed=0, diverged=0, retrained=0)
    for plan in plans:
        for (row, method), runs in plan.runs.items():
            values = plan.cell(row, method, metric).values(runtime)
            for name in lost:
                lost[name] += len(getattr(values, name))
            for seed, value in values.values.items():
                if training := find_record(runs.jobs[seed], runtime):
                    points.append(Point(Setting.of(training), seed, sign * value))
    return points, dict(lost)


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
