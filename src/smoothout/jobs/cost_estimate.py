"""What jobs that have no record would take."""

from __future__ import annotations

import statistics
from dataclasses import replace

from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime


class RuntimeEstimator:
    """Estimates of what missing jobs would take on this device: from records of their like, else from the config."""

    def __init__(self, runtime: Runtime) -> None:
        self._seconds: dict[tuple[str, str, int], list[float]] = {}
        for record in runtime.records.iter_readable(Experiment.kind):
            on_cpu = record.environment["device"] == "cpu"
            if on_cpu == runtime.on_cpu and record.outcome["curves"]["seconds"]:
                labels = record.labels
                key = (labels["model"], labels["data"], labels["batch"])
                seen = statistics.median(record.outcome["curves"]["seconds"]) / record.outcome["examples"]["train"]
                self._seconds.setdefault(key, []).append(seen)

    def hours(self, job: Job, epoch_seconds: float | None) -> float | None:
        """Hours that ``job`` would take; ``epoch_seconds`` is the config's estimate for all training examples."""
        run = job.training_job.settings
        if not isinstance(run, Experiment):
            return None
        labels = run.labels
        seen = self._seconds.get((labels["model"], labels["data"], labels["batch"]))
        whole = replace(run.data, train_examples=None).expected_sizes[0]
        if not seen and epoch_seconds is None:
            return None
        example_seconds = statistics.median(seen) if seen else (epoch_seconds or 0.0) / whole
        if job.kind == Experiment.kind:
            return float(run.schedule.epochs * run.data.expected_sizes[0] * example_seconds / 3600)
        sizes = run.data.expected_sizes
        passes: int = job.settings.evaluations(*sizes) * job.settings.examples_seen(*sizes)
        return passes * example_seconds / 3600
