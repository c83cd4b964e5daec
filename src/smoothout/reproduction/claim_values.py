"""The values of the cells that a claim names, on the scale of its test, and tests of single cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smoothout.analysis.options import SplitName
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import CellSpec, CellValues
from smoothout.reproduction.metrics import METRICS
from smoothout.results.significance import TestResult, binomial_standard_error, paired_t_test

DECIMALS = 9  # of a sum of points or of log2; anything below is rounding
ZERO = 5e-5  # percent; a sharpness below it is printed as 0.0000


@dataclass(frozen=True)
class MetricValues(CellValues):
    """The values of a cell on the scale of a test: points, or log2 for what is compared by ratio."""

    published: float | None
    images: int  # the size of the split that an accuracy is a share of; 0 for other metrics

    @classmethod
    def read(cls, cell: CellSpec, runtime: Runtime) -> MetricValues:
        """Read the records of ``cell``."""
        read, published = cell.values(runtime), cell.published.value if cell.published else None
        if METRICS[cell.metric].ratio_scale:
            logs = {seed: math.log2(value) for seed, value in read.values.items() if value > 0}
            read = replace(read, values=logs, failed=read.failed | (read.values.keys() - logs.keys()))
            published = math.log2(published) if published else None
        return cls(**vars(read), published=published, images=_images(cell))

    @property
    def step(self) -> float:
        """What one image adds to an accuracy, in points; 0 for other metrics."""
        return 100 / self.images if self.images else 0.0


def _images(cell: CellSpec) -> int:
    metric = METRICS[cell.metric]
    if metric.ratio_scale or metric.share_of is None or not cell.jobs:
        return 0
    job = cell.first_job
    data, is_analysis = job.training_job.settings.data, bool(job.dependencies)
    if is_analysis and job.settings.takes_unseen_test:
        data = replace(data, validation_size=None)
    train, test = data.expected_sizes
    size = train if metric.share_of is SplitName.train else test
    return int(job.settings.examples_used(size) if is_analysis else size)


def difference(plus: Sequence[float | None], minus: Sequence[float | None]) -> float | None:
    """The sum of ``plus`` minus that of ``minus``, without float64's rounding; None if a number is unknown."""
    signed = [(1, value) for value in plus] + [(-1, value) for value in minus]
    if any(value is None for _, value in signed):
        return None
    return round(sum(sign * value for sign, value in signed if value), DECIMALS) + 0.0  # -0.0 becomes 0.0


def against_published(values: MetricValues, margin: float) -> TestResult:
    """How much ``values`` exceed the published number, which is taken as it is; no test without one."""
    differences = [difference([value], [values.published]) for value in values.values.values()]
    return paired_t_test([value for value in differences if value is not None], margin, values.step)


def above_zero(values: Sequence[float]) -> TestResult:
    """Whether the sharpness (percent) is above 0.0000: any point of the box with a higher loss proves it."""
    if not values:
        return TestResult()
    least = min(values)
    return TestResult(len(values), least, least, math.inf, 1.0, 0.0 if least >= ZERO else 1.0)


def accuracy_error(sides: Sequence[MetricValues]) -> float | None:
    """The binomial standard error of the first accuracy, in points; None if there is none."""
    for side in sides:
        if side.values and side.images:
            return 100 * binomial_standard_error(next(iter(side.values.values())) / 100, side.images)
    return None
