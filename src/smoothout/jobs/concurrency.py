"""Which jobs run at the same time on one device, and on which of its streams."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime

MARGIN = 1.2  # of the memory that the last training needed must be free before the next one begins


class JobQueue:
    """Jobs that wait, each once, in their order; one that could not be done yet may be put back."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs, self._seen, self._next = iter(jobs), set[str](), list[Job]()

    def first(self) -> Job | None:
        """The job that is next, or None; it stays in the queue. Takes no more than it needs from what it was given."""
        while not self._next:
            job = next(self._jobs, None)
            if job is None:
                return None
            if job.digest not in self._seen:
                self._seen.add(job.digest)
                self._next.append(job)
        return self._next[-1]

    def take(self) -> Job:
        """The job that is next."""
        return self._next.pop()

    def put_back(self, job: Job) -> None:
        """Let ``job`` be the next one."""
        self._next.append(job)


@dataclass
class TrainingTurn:
    """One job among those that run at the same time.

    Args:
        stream: what its work goes onto, on a CUDA device.
        first_epoch: steps until it has needed all kinds of memory that it will need.
        reserved: bytes that the process had reserved on the device when it began.
        steps: updates that it has made.
        waits: whether it waits for another process's job to end.
    """

    stream: Any
    first_epoch: int
    reserved: int
    steps: int = 0
    waits: bool = False

    @property
    def settled(self) -> bool:
        """Whether it needs no more memory than it has, as far as one can tell."""
        return self.waits or self.steps > self.first_epoch

    def entered(self) -> AbstractContextManager[Any]:
        """A block whose work runs on the turn's stream."""
        return torch.cuda.stream(self.stream) if self.stream is not None else nullcontext()


@dataclass
class ConcurrencyLimit:
    """Decides which job may begin beside those that run. At most ``most`` run at the same time.

    Image folders, whose images are read and decoded on the way, are trained on alone: readers of several trainings
    would share the interpreter's lock. On a CUDA device the next job begins when the last one has been through its
    first epoch, and the memory that is free is ``MARGIN`` times what that one has needed. Streams are used again,
    because each leaves a workspace of cuBLAS behind for good.
    """

    runtime: Runtime
    most: int
    _turns: dict[Job, TrainingTurn] = field(default_factory=dict)
    _free: list[Any] = field(default_factory=list)
    _needed: int = 0

    @property
    def _device(self) -> torch.device | None:
        """The CUDA device, if it is one."""
        return self.runtime.device if self.runtime.device.type == "cuda" else None

    def admits(self, job: Job) -> bool:
        """Whether ``job`` may begin where there is room."""
        return not self._turns or not any(_reads_on_the_way(one) for one in (job, *self._turns))

    def have_room(self) -> bool:
        """Whether another job may begin now, as far as that depends on those that run."""
        if not self._turns:
            return True
        if len(self._turns) >= self.most:
            return False
        if self._device is None:
            return True
        last = next(reversed(self._turns.values()))
        return last.settled and torch.cuda.mem_get_info(self._device)[0] > MARGIN * self._needed

    def begin(self, job: Job) -> tuple[TrainingTurn, Runtime]:
        """The job's turn, and the runtime that it sees, whose engine says how many trainings run at once."""
        stream, reserved = None, 0
        if self._device is not None:
            fresh = torch.cuda.Stream(self._device) if not self._free else None  # type: ignore[no-untyped-call]
            stream = fresh or self._free.pop()
            self._collect()
            reserved = torch.cuda.memory_reserved(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        self._turns[job] = turn = TrainingTurn(stream, _updates_of_an_epoch(job), reserved)
        runtime = self.runtime
        return turn, runtime if self.most == runtime.concurrent_trainings else replace(
            runtime, engine=replace(runtime.engine, concurrent_trainings=self.most)
        )

    def step(self, turn: TrainingTurn, *, worked: bool) -> None:
        """Note that the job that has the turn made an update, or (``worked`` False) waits."""
        turn.waits = not worked
        turn.steps += worked
        if worked and self._device is not None and turn.steps == turn.first_epoch + 1:
            self._needed = torch.cuda.max_memory_reserved(self._device) - turn.reserved
            torch.cuda.empty_cache()  # what evaluating has needed

    def end(self, job: Job) -> None:
        """The job has ended, whether it is done or failed; nothing of it may be referred to any more."""
        turn = self._turns.pop(job)
        if self._device is not None:
            self._free.append(turn.stream)
            self._collect()

    def reduce(self) -> bool:
        """Let fewer jobs run at the same time, after one of them ran out of memory; False when it was alone."""
        if self.most == 1:
            return False
        self.most = max(1, min(self.most, len(self._turns)) - 1)
        return True

    def _collect(self) -> None:
        gc.collect()  # models and graphs may hang in cycles of somebody's making
        torch.cuda.empty_cache()


def forget_frames(error: BaseException) -> BaseException:
    """``error`` without the variables of the frames that it passed through: they hold models and their memory."""
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reads_on_the_way(job: Job) -> bool:
    return not getattr(getattr(job.training_job.settings, "data", None), "resident", True)


def _updates_of_an_epoch(job: Job) -> int:
    """Of the training that the job is or looks at; 0 where there is none."""
    setup = job.training_job.settings
    return setup.batch.updates_per_epoch(setup.data.expected_sizes[0]) if hasattr(setup, "batch") else 0
