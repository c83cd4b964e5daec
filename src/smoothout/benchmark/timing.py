"""Time two things in turn, so that whatever else the machine does affects both."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """One comparison: seconds of both sides, turn by turn."""

    ours: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def value(self) -> float:
        """Ours over the reference, by their medians."""
        return statistics.median(self.ours) / statistics.median(self.reference)

    @property
    def spread(self) -> tuple[float, float]:
        """The first and third quartile of the ratio over the turns."""
        low, _, high = statistics.quantiles((o / r for o, r in zip(self.ours, self.reference, strict=True)), n=4)
        return low, high


def seconds(work: Work, device: torch.device) -> float:
    """How long ``work`` takes, including its work on the device."""
    synchronize(device)
    since = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - since


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(ours: Work, reference: Work, device: torch.device, turns: int, warm_up: int = 2) -> Ratio:
    """Time both in turn, ``turns`` times (at least 2), each after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        ours()
        reference()
    times = []
    for turn in range(turns):  # who goes first alternates: the caches are warm from the one before
        pair = (ours, reference) if turn % 2 else (reference, ours)
        measured = {work: seconds(work, device) for work in pair}
        times.append((measured[ours], measured[reference]))
    return Ratio(*(tuple(side) for side in zip(*times, strict=True)))


def profile_top_ops(work: Work, device: torch.device, count: int = 4) -> list[tuple[str, float]]:
    """The operations that ``work`` spends most of its time in, each with its share.

    Empty if the profiler sees no time on the device, as in some containers and on parts of a GPU.
    """
    cuda = device.type == "cuda"
    with _profiler(cuda) as profiled:
        work()
    events = [(e.key, e.self_device_time_total if cuda else e.self_cpu_time_total) for e in profiled.key_averages()]
    total = sum(spent for _, spent in events)
    longest = sorted(events, key=lambda event: -event[1])[:count]
    return [(name, spent / total) for name, spent in longest] if total else []


def _profiler(cuda: bool) -> profile:
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])


@cache
def warm_profiler(device_type: str) -> None:
    """Set the profiler up before the first CUDA graph is captured: it does not see graphs that are older."""
    if device_type == "cuda":
        with _profiler(cuda=True):
            pass


class SubprocessWork(AbstractContextManager["SubprocessWork"]):
    """Work in a fresh process, with Python's default memory allocation; calling it does the work once.

    Args:
        make: a function at the top level of a module that returns the work.
        arguments: of ``make``.
        threads: torch's in that process.
    """

    def __init__(self, make: Callable[..., Work], arguments: Sequence[Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,))
        self._pool.submit(_make_work, make, *arguments).result()

    def __call__(self) -> None:
        """Do the work once. Raises what it raises, and BrokenProcessPool if its process has died."""
        self._pool.submit(_do_work).result()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


_works: list[Work] = []  # of this process


def _make_work(make: Callable[..., Work], *arguments: Any) -> None:
    _works.append(make(*arguments))


def _do_work() -> None:
    _works[-1]()
