"""How jobs take turns in one process: a job is a generator that pauses after every step.

One GPU can hold several small trainings, but a training waits for the device most of the time. A job is therefore a
generator that yields after every update, and its driver (`runner.run_jobs`) resumes the next job. Threads would be less
predictable, because they share torch's global random state, and a signal must stop every training between two updates.
``yield from`` passes the pauses of an inner function to the driver and returns the inner function's result.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
WAIT_SECONDS = 0.1  # between two attempts to acquire locks that others hold


class Step(Enum):
    """What a job did before it paused."""

    updated = "updated"  # one update of a training
    waiting = "waiting"  # nothing: another process or job holds a required lock


Steps = Generator[Step, None, T]  # pauses with a Step, ends with a T


def run_to_end(steps: Steps[T]) -> T:
    """Run ``steps`` alone, and return their result."""
    while True:
        try:
            if next(steps) is Step.waiting:
                time.sleep(WAIT_SECONDS)
        except StopIteration as done:
            result: T = done.value
            return result
