"""Find the record of a job, and the checkpoint of a training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.results.records import Record, check_same_data
from smoothout.results.retrained import WeightsSeen, weights_seen


def find_record(job: Job, runtime: Runtime) -> Record | None:
    """The job's record, the newest if there are several, or None. Raises RecordError, see `RecordStore.find`."""
    records = (runtime.records.find(job.kind, digest, job.settings) for digest in job.valid_digests)
    return next(filter(None, records), None)


def check_data(jobs: Iterable[Job], runtime: Runtime) -> None:
    """Raise RecordError if recorded trainings among ``jobs`` saw different data of the same name."""
    trainings = (find_record(job, runtime) for job in jobs if not job.dependencies)
    check_same_data(record for record in trainings if record is not None)


def retrained_inputs(job: Job, runtime: Runtime) -> dict[str, WeightsSeen]:
    """The trainings that were repeated to provide weights for the analysis ``job``, by name.

    Empty for a training, and for an analysis without a record.
    """
    record = find_record(job, runtime) if job.dependencies else None
    runs = [find_record(run, runtime) for run in job.dependencies] if record else []
    seen = {run.name: weights_seen(record, number, run) for number, run in enumerate(runs) if record and run}
    return {name: weights for name, weights in seen.items() if weights is not WeightsSeen.recorded}


def describe_retrained(jobs: Iterable[Job], runtime: Runtime) -> list[str]:
    """A sentence for each kind of retrained weights that analyses among ``jobs`` used, naming the runs."""
    worst = dict[str, WeightsSeen]()
    for name, weights in (item for job in jobs for item in retrained_inputs(job, runtime).items()):
        worst[name] = max(weights, worst.get(name, weights))
    kinds = sorted(set(worst.values()), reverse=True)
    return [f"{kind.words}: {', '.join(sorted(n for n in worst if worst[n] is kind))}" for kind in kinds]


def checkpoint_path(job: Job, runtime: Runtime) -> Path:
    """The path of the training's checkpoint, whether it exists or not.

    Only the digest counts: the readable part of the name may have changed since the file was written.
    """
    folder = Path(runtime.folders.checkpoints)
    return min(folder.glob(f"*-{job.digest[:8]}.pt"), default=folder / f"{job.name}.pt")
