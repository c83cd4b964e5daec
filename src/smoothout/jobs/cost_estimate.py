"""Estimates of the duration of jobs without a record, such as "about 3 h" in a plan.

A training takes epochs x training examples x the method's passes x seconds per example. The latter is the median epoch
time of recorded trainings of the same model, data and batch on the same kind of device (CPU or GPU), per training
example and pass; trainings that took turns on a device do not count. Without such trainings it comes from
``epoch_seconds`` in configs/experiment/, the time for one epoch of the full data set. A run that is trained again
counts in full, although its best weights may take fewer epochs.
An analysis takes evaluations x examples per evaluation x the same seconds per example, because an evaluation is a
forward and backward pass, as in a training. Other jobs (measurements of the machine, summaries) have no estimate.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from operator import itemgetter
from typing import Any

from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime

_key = itemgetter("model", "data", "batch")  # trainings with these labels in common take the same time per example


class RuntimeEstimator:
    """Estimates the duration of jobs on this device, see the module's docstring; reads all training records once."""

    def __init__(self, runtime: Runtime) -> None:
        self._example_seconds = defaultdict[Any, list[float]](list)
        for record in runtime.records.iter_readable(Experiment.kind):
            on_cpu = record.environment["device"] == "cpu"
            epochs = record.outcome["curves"]["seconds"]
            machines = record.outcome.get("machines", ())
            alone = all(machine.get("engine", {}).get("together", 1) == 1 for machine in machines)
            if on_cpu == runtime.on_cpu and epochs and alone:
                passes = record.outcome.get("passes", 1)
                seconds = statistics.median(epochs) / record.outcome["examples"]["train"] / passes
                self._example_seconds[_key(record.labels)].append(seconds)

    def hours(self, job: Job, epoch_seconds: float | None) -> float | None:
        """Hours that ``job`` would take, None if unknown; ``epoch_seconds`` is the config's estimate of an epoch."""
        experiment = job.training_job.settings
        if not isinstance(experiment, Experiment):
            return None
        example_seconds = self._seconds_per_example(experiment, epoch_seconds)
        if example_seconds is None:
            return None
        train, test = experiment.data.expected_sizes
        if job.kind == Experiment.kind:
            examples = experiment.schedule.epochs * train * experiment.method.passes
        else:
            examples = job.settings.evaluations(train, test) * job.settings.examples_seen(train, test)
        return float(examples * example_seconds / 3600)

    def _seconds_per_example(self, experiment: Experiment, epoch_seconds: float | None) -> float | None:
        recorded = self._example_seconds.get(_key(experiment.labels))
        if recorded:
            return statistics.median(recorded)
        if epoch_seconds is None:
            return None
        data: Any = experiment.data  # a dataclass; the config's seconds are of an epoch of all its images
        examples: int = replace(data, train_examples=None, validation_size=None).expected_sizes[0]
        return epoch_seconds / examples
