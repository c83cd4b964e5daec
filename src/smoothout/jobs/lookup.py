"""Find the record of a job."""

from __future__ import annotations

from collections.abc import Iterable

from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.results.records import Record


def find_record(job: Job, runtime: Runtime) -> Record | None:
    """The job's record, or None. Raises RecordError, see `RecordStore.find`."""
    return runtime.records.find(job.kind, job.digest, job.settings)


def runs_with_other_weights(jobs: Iterable[Job], runtime: Runtime) -> list[str]:
    """Names of the trainings whose weights an analysis among ``jobs`` saw after a retraining.

    This happens if a checkpoint was lost and the training was repeated on a machine that rounds differently.
    """
    names = set()
    for job in jobs:
        record = find_record(job, runtime) if job.dependencies else None
        seen = record.outcome.get("weights", ()) if record else ()
        for training, digest in zip(job.dependencies, seen, strict=False):
            run = find_record(training, runtime)
            if run is not None and run.outcome["weights"][str(job.settings.checkpoint)] != digest:
                names.add(run.name)
    return sorted(names)
