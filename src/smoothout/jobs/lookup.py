"""Find the record of a job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smoothout.common.errors import RecordError
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record


def find_record(job: Job, runtime: Runtime) -> Record | None:
    """The job's record, or None. Raises RecordError when the file is not what this program would have made."""
    record = runtime.records.get(job.kind, job.digest)
    if record is not None and not _agrees(record.settings, canonical_settings(job.settings)):
        raise RecordError(
            f"record: {record.name} was made with other defaults than this version has; its settings say with which"
        )
    return record


def _agrees(old: Any, new: Any) -> bool:
    """Whether every setting that the record knows has the same value now; settings added later may stand in ``new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and _agrees(value, new[key]) for key, value in old.items())
    return bool(old == new)


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
