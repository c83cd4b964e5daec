"""Cache the result of each full pass over a split, so that an interrupted analysis can resume.

An analysis is a pure function of networks, examples and settings. If it runs again, it therefore makes the same passes
in the same order, and those in the cache are skipped. Fast passes are not kept.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from smoothout.common.files import atomic_write

SLOW_SECONDS = 1.0  # faster passes are repeated
MOST_BYTES = 4 * 2**30  # of one cache; later passes are repeated
_open: list[_PassCache | None] = []


@contextmanager
def open_pass_cache(folder: Path, circumstances: str) -> Iterator[None]:
    """Within the block, `cached_pass` saves its results in ``folder``, and reads those of an earlier, interrupted call.

    Results with other ``circumstances`` (weights, examples, machine: all that the numbers depend on) are discarded. The
    folder remains after the block: call `clear_pass_cache` once the outcome is saved.
    """
    _open.append(_PassCache(folder, circumstances))
    try:
        yield
    finally:
        _open.pop()


@contextmanager
def without_pass_cache() -> Iterator[None]:
    """Within the block, do not use the cache: make every pass, and keep no results."""
    _open.append(None)
    try:
        yield
    finally:
        _open.pop()


def clear_pass_cache(folder: Path) -> None:
    """Remove the cache in ``folder``, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def cached_pass(measure: Callable[[], Tensor]) -> Tensor:
    """The tensor that ``measure`` computes in a pass over its batches, from the cache if it is there.

    Outside of `open_pass_cache`, ``measure`` is simply called. Cached tensors are on the CPU.
    """
    cache = _open[-1] if _open else None
    return measure() if cache is None else cache.get(measure)


class _PassCache:
    """One file per pass, named by circumstances and number: caches in one folder never mix."""

    def __init__(self, folder: Path, circumstances: str) -> None:
        self._folder, self._mark = folder, sha256(circumstances.encode()).hexdigest()[:16]
        self._number = 0
        for path in folder.glob("*.pt"):
            if not path.name.startswith(self._mark):
                path.unlink(missing_ok=True)
        self._bytes = sum(path.stat().st_size for path in folder.glob("*.pt"))

    def get(self, measure: Callable[[], Tensor]) -> Tensor:
        path = self._folder / f"{self._mark}-{self._number:06d}.pt"
        self._number += 1
        with suppress(Exception):  # missing or damaged: repeat the pass
            cached: Tensor = torch.load(path, map_location="cpu", weights_only=True)
            return cached
        since = time.monotonic()
        result = measure()
        result[:1].cpu()  # waits for the device, to include its time
        if time.monotonic() - since >= SLOW_SECONDS and self._bytes + result.nbytes <= MOST_BYTES:
            with suppress(OSError, RuntimeError):  # full disk (a RuntimeError of torch): the pass can be repeated
                with atomic_write(path) as part:
                    torch.save(result.cpu(), part)
                self._bytes += result.nbytes
        return result
