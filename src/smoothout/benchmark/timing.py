"""Time two functions in turn, so that other load on the machine affects both."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


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


def time_in_turn(works: dict[str, Work], device: torch.device, turns: int, warm_up: int) -> dict[str, list[float]]:
    """Seconds of each work in every turn, after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        for work in works.values():
            seconds(work, device)  # waits for the device, because the works may share tensors
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for _ in range(turns):
        names.reverse()  # alternate the order, because each finds the caches as the other left them
        for name in names:
            times[name].append(seconds(works[name], device))
    return times


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
    """Initialize the profiler before the first CUDA graph is captured, because it does not see earlier graphs."""
    if device_type == "cuda":
        with _profiler(cuda=True):
            pass


@contextmanager
def subprocess_work(make: Callable[..., Work], arguments: Sequence[Any], threads: int | None = None) -> Iterator[Work]:
    """The work that ``make(*arguments)`` returns in a fresh process, with Python's default memory allocation.

    ``make`` is at the top level of a module; ``threads`` are torch's in that process, as many as here by default.
    Calling the work raises what it raises there, and BrokenProcessPool if its process has died.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (threads or torch.get_num_threads(),)) as pool:
        pool.submit(_make_work, make, *arguments).result()
        yield lambda: pool.submit(_do_work).result()


_works: list[Work] = []  # of this process


def _make_work(make: Callable[..., Work], *arguments: Any) -> None:
    _works.append(make(*arguments))


def _do_work() -> None:
    _works[-1]()
