"""Wait for the lock on a record or on weights: one process or job at a time makes each of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

from filelock import FileLock, Timeout

from smoothout.common import interrupts
from smoothout.jobs.steps import Step, Steps


def acquire(file_lock: FileLock) -> Steps[AbstractContextManager[Any]]:
    """Wait for ``file_lock`` and return it, to be released by ``with``; pauses while another process or job has it."""
    while True:
        with suppress(Timeout):
            held: AbstractContextManager[Any] = file_lock.acquire(timeout=0)
            return held
        interrupts.raise_if_interrupted()
        yield Step.waiting
