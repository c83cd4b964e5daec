"""The right to write a record, or the weights of a run: one process or job at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smoothout.common import interrupts
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.results.records import Record, lock

JobSteps = Generator[bool, None, Record]  # pauses after every update of a training, and (False) while it has to wait


def acquire(right: FileLock) -> Generator[bool, None, AbstractContextManager[Any]]:
    """The right to make a record, or weights; pauses while another process or job has it."""
    while True:
        with suppress(Timeout):
            held: AbstractContextManager[Any] = right.acquire(timeout=0)
            return held
        interrupts.raise_if_interrupted()
        yield False


def weights_lock(job: Job, runtime: Runtime) -> FileLock:
    """It lies beside the checkpoints, for several results folders may share them."""
    return lock(Path(runtime.folders.checkpoints), "checkpoints", f"weights-{job.digest[:8]}")
