"""The locks on records and weights: one process or job at a time makes each of them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smoothout.common import interrupts
from smoothout.common.progress import console
from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.steps import Step, Steps
from smoothout.results.records import lock

SILENT_SECONDS = 5.0  # time for which `acquire` waits without a message


def weights_lock(training: Job, runtime: Runtime) -> FileLock:
    """The lock on the weights of ``training``, not yet acquired. Raises RecordError if their folder cannot be used."""
    # It is next to the checkpoints, because several results folders may share them.
    return lock(Path(runtime.folders.checkpoints), "checkpoints", f"weights-{training.digest[:8]}")


def check_folders(job: Job, runtime: Runtime) -> None:
    """Raise RecordError if an output folder of ``job`` is not writable, or does not support locks."""
    runtime.records.lock(job.kind, job.digest)
    if job.kind == Experiment.kind:
        weights_lock(job, runtime)


def acquire(file_lock: FileLock) -> Steps[AbstractContextManager[Any]]:
    """Wait for ``file_lock`` and return it, for use in ``with``; pauses while another process or job holds it."""
    announce_at: float | None = time.monotonic() + SILENT_SECONDS
    while True:
        with suppress(Timeout):
            held: AbstractContextManager[Any] = file_lock.acquire(timeout=0)
            return held
        interrupts.raise_if_interrupted()
        if announce_at is not None and time.monotonic() > announce_at:
            console.print(f"waiting for another process or job, which holds {file_lock.lock_file}", markup=False)
            announce_at = None
        yield Step.waiting
