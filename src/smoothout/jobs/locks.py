"""Locks on records and weights: one process or job at a time makes each of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smoothout.common import interrupts
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.steps import Step, Steps
from smoothout.results.records import lock


def acquire(file_lock: FileLock) -> Steps[AbstractContextManager[Any]]:
    """Wait for ``file_lock`` and return it, to be released by ``with``; pauses while another process or job has it."""
    while True:
        with suppress(Timeout):
            held: AbstractContextManager[Any] = file_lock.acquire(timeout=0)
            return held
        interrupts.raise_if_interrupted()
        yield Step.waiting


def weights_lock(job: Job, runtime: Runtime) -> FileLock:
    """The lock on a run's weights. It lies next to the checkpoints, because several results folders may share them."""
    return lock(Path(runtime.folders.checkpoints), "checkpoints", f"weights-{job.digest[:8]}")
