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
    """The runs of which an analysis among ``jobs`` saw other weights than those that the run's own record speaks of.

    That is so where a checkpoint was lost and its run trained again on a machine that rounds otherwise.
    """
    names = set()
    for job in jobs:
        record = find_record(job, runtime) if job.dependencies else None
        for one, digest in zip(job.dependencies, record.outcome.get("weights", ()) if record else (), strict=False):
            run = find_record(one, runtime)
            if run is not None and run.outcome["weights"][str(job.settings.checkpoint)] != digest:
                names.add(run.name)
    return sorted(names)
