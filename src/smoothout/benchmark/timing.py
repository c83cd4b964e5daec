"""Timing two things in turn, so that whatever else the machine does meets both."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
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
    """How long ``work`` takes, the device's share of it included."""
    _wait(device)
    since = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - since


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(ours: Work, reference: Work, device: torch.device, turns: int, warm_up: int = 2) -> Ratio:
    """Time both in turn, ``turns`` times (at least 2), each after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        ours()
        reference()
    times = []
    for turn in range(turns):  # who goes first alternates: the one before leaves its traces in the caches
        pair = (ours, reference) if turn % 2 else (reference, ours)
        measured = {work: seconds(work, device) for work in pair}
        times.append((measured[ours], measured[reference]))
    return Ratio(*(tuple(side) for side in zip(*times, strict=True)))


def profile_top_ops(work: Work, device: torch.device, count: int = 4) -> list[tuple[str, float]]:
    """The operations that ``work`` spends most of its time in, each with its share.

    Empty where the profiler sees no time on the device: in some containers, and on parts of a GPU, it may not count.
    """
    cuda = device.type == "cuda"
    with _profiler(cuda) as recorded:
        work()
    events = [(e.key, e.self_device_time_total if cuda else e.self_cpu_time_total) for e in recorded.key_averages()]
    total = sum(own for _, own in events)
    if not total:
        return []
    return [(name, own / total) for name, own in sorted(events, key=lambda event: -event[1])[:count]]


def _profiler(cuda: bool) -> profile:
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])


@cache
def warm_profiler(device_type: str) -> None:
    """Let the profiler set itself up before the first CUDA graph is recorded: it sees no graph of the time before."""
    if device_type == "cuda":
        with _profiler(cuda=True):
            pass


class SubprocessWork(AbstractContextManager["SubprocessWork"]):
    """Work in a fresh process, which allocates memory as Python does by default; calling it does the work once.

    Args:
        make: a function at the top of a module that returns the work to do.
        arguments: what it is called with.
        threads: of torch in that process.
    """

    def __init__(self, make: Callable[..., Work], arguments: Sequence[Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments, threads))
        self._process.start()
        there.close()  # or a death over there would not be noticed here

    def __call__(self) -> None:
        """Do the work once. Raises RuntimeError when it failed."""
        try:
            self._here.send(True)
            error = self._here.recv()
        except (EOFError, BrokenPipeError):
            error = "the process that it ran in has died"
        if error:
            raise RuntimeError(error)

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._here.send(False)
        self._process.join()


def _serve(pipe: Any, make: Callable[..., Work], arguments: Sequence[Any], threads: int) -> None:
    torch.set_num_threads(threads)
    work: Work | None = None
    while pipe.recv():
        try:
            work = work or make(*arguments)
            work()
            pipe.send("")
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")
