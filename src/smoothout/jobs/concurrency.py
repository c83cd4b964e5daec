"""Decide which jobs run concurrently on one device, and on which streams."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime

MARGIN = 1.2  # the next training starts when this multiple of the last one's memory is free


class JobQueue:
    """Jobs in order, each digest once; a job that could not finish may be put back at the front."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs, self._seen, self._front = iter(jobs), set[str](), list[Job]()

    def peek(self) -> Job | None:
        """The next job, which stays in the queue, or None. Reads no more jobs from the iterable than needed."""
        while not self._front:
            job = next(self._jobs, None)
            if job is None:
                return None
            if job.digest not in self._seen:
                self._seen.add(job.digest)
                self._front.append(job)
        return self._front[-1]

    def pop(self) -> Job:
        """The next job; `peek` must have found one."""
        return self._front.pop()

    def put_back(self, job: Job) -> None:
        """Make ``job`` the next one."""
        self._front.append(job)


@dataclass
class Slot:
    """A running job's share of the device."""

    runtime: Runtime  # its engine knows how many trainings run at the same time
    stream: Any  # the CUDA stream of its work, None on a CPU
    updates_per_epoch: int
    reserved_before: int  # bytes reserved on the device when the job started
    updates: int = 0  # completed so far
    is_waiting: bool = False  # whether it waits for a lock that another process or job holds

    @property
    def memory_is_known(self) -> bool:
        """Whether the job has probably reached its peak memory, or waits.

        A training reaches it in its first epoch, which ends with a smaller batch and the evaluation.
        """
        return self.is_waiting or self.updates > self.updates_per_epoch


@dataclass
class ConcurrencyLimit:
    """Decides when another job may start: at most ``limit`` run at the same time, and as memory allows.

    On a CUDA device the next job starts after the last one's first epoch, if ``MARGIN`` times the memory of that one is
    free. After a job has run out of memory, ``limit`` stays lower: the rest of the table runs with fewer concurrent
    trainings, down to one, instead of failing repeatedly.

    Trainings on image folders run alone, because the reading and decoding threads of several trainings would compete
    for Python's GIL. Streams are reused, because cuBLAS never frees the workspace of a stream.
    """

    runtime: Runtime
    limit: int
    _slots: dict[Job, Slot] = field(default_factory=dict)
    _free_streams: list[Any] = field(default_factory=list)
    _bytes_needed: int = 0  # memory of the training that last completed an epoch

    @property
    def _cuda(self) -> torch.device | None:
        return self.runtime.device if self.runtime.device.type == "cuda" else None

    def has_room(self) -> bool:
        """Whether the running jobs leave room for another one."""
        if not self._slots:
            return True
        if len(self._slots) >= self.limit:
            return False
        if self._cuda is None:
            return True
        newest = next(reversed(self._slots.values()))
        return newest.memory_is_known and torch.cuda.mem_get_info(self._cuda)[0] > MARGIN * self._bytes_needed

    def admits(self, job: Job) -> bool:
        """Whether ``job`` may run next to the running jobs."""
        return not self._slots or not any(_streams_images(other) for other in (job, *self._slots))

    def start(self, job: Job) -> Slot:
        """Give ``job`` a slot."""
        stream, reserved = None, 0
        if self._cuda is not None:
            stream = self._free_streams.pop() if self._free_streams else torch.cuda.Stream(self._cuda)  # type: ignore[no-untyped-call]
            self._free_memory()
            reserved = torch.cuda.memory_reserved(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
        lowered = self.limit != self.runtime.concurrent_trainings
        runtime = self.runtime.limited_to(self.limit) if lowered else self.runtime
        self._slots[job] = slot = Slot(runtime, stream, _updates_per_epoch(job), reserved)
        return slot

    def note_step(self, slot: Slot, *, updated: bool) -> None:
        """Record that the slot's job made an update or, if not ``updated``, waits."""
        slot.is_waiting = not updated
        slot.updates += updated
        if updated and self._cuda is not None and slot.updates == slot.updates_per_epoch + 1:
            self._bytes_needed = torch.cuda.max_memory_reserved(self._cuda) - slot.reserved_before
            torch.cuda.empty_cache()  # frees the memory of the evaluation

    def finish(self, job: Job) -> None:
        """Free the slot of ``job`` after it ended or failed; no reference to its tensors may remain."""
        slot = self._slots.pop(job)
        if self._cuda is not None:
            self._free_streams.append(slot.stream)
            self._free_memory()

    def lower(self) -> bool:
        """Lower the limit after a job ran out of memory; returns False if it was 1 already."""
        if self.limit == 1:
            return False
        self.limit = max(1, min(self.limit, len(self._slots)) - 1)
        return True

    def _free_memory(self) -> None:
        gc.collect()  # models and graphs may be part of reference cycles
        torch.cuda.empty_cache()


def clear_frames(error: Exception) -> Exception:
    """``error`` without the local variables of its tracebacks, which keep models and their memory alive."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return error


def _streams_images(job: Job) -> bool:
    """Whether the job's training reads images while it runs."""
    settings = job.training_job.settings
    return isinstance(settings, Experiment) and not settings.data.resident


def _updates_per_epoch(job: Job) -> int:
    """Updates per epoch of the training or analyzed training; 0 for other jobs."""
    experiment = job.training_job.settings
    if not isinstance(experiment, Experiment):
        return 0
    return experiment.batch.updates_per_epoch(experiment.data.expected_sizes[0])
