"""What the passes over a split have found, kept for an analysis that is interrupted: begun again, it reads them.

An analysis is a pure function of networks, examples and settings, so its passes come again in the same order with the
same results, and those that are in the journal need not be made. Passes that are quick are not kept.
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

SLOW_SECONDS = 1.0  # a pass that took less is made again
MOST_BYTES = 4 * 2**30  # of one journal; later passes are made again
_open: list[_PassCache] = []


@contextmanager
def open_pass_cache(folder: Path, circumstances: str) -> Iterator[None]:
    """Within the block `cached_pass` keeps what it finds in ``folder``, and reads what is there from the time before.

    What was found under other ``circumstances`` (weights, examples, machine: all that the numbers depend on) is
    discarded. The folder stays when the block ends: `clear_pass_cache` it when the outcome is safe.
    """
    _open.append(_PassCache(folder, circumstances))
    try:
        yield
    finally:
        _open.pop()


def clear_pass_cache(folder: Path) -> None:
    """Remove a journal, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def cached_pass(measure: Callable[[], Tensor]) -> Tensor:
    """What ``measure`` finds in a pass over its batches, a tensor; it is not called where that is known.

    Outside `open_pass_cache` it is just called. What was kept comes back on the CPU, whatever the device it was found
    on.
    """
    return _open[-1].passed(measure) if _open else measure()


class _PassCache:
    """A file a pass, by its circumstances and number: two that share a folder never read each other's."""

    def __init__(self, folder: Path, circumstances: str) -> None:
        self._folder, self._mark = folder, sha256(circumstances.encode()).hexdigest()[:16]
        self._number = 0
        for path in folder.glob("*.pt"):
            if not path.name.startswith(self._mark):
                path.unlink(missing_ok=True)
        self._bytes = sum(path.stat().st_size for path in folder.glob("*.pt"))

    def passed(self, measure: Callable[[], Tensor]) -> Tensor:
        path = self._folder / f"{self._mark}-{self._number:06d}.pt"
        self._number += 1
        with suppress(Exception):  # not there, or damaged: the pass is made again
            known: Tensor = torch.load(path, map_location="cpu", weights_only=True)
            return known
        since = time.monotonic()
        found = measure()
        found[:1].cpu()  # a device may still be at work, and it is its time that counts
        if time.monotonic() - since >= SLOW_SECONDS and self._bytes + found.nbytes <= MOST_BYTES:
            with suppress(OSError, RuntimeError):  # a disk that is full, as torch says it; the pass can be made again
                self._keep(path, found)
        return found

    def _keep(self, path: Path, found: Tensor) -> None:
        with atomic_write(path) as part:
            torch.save(found.cpu(), part)
        self._bytes += found.nbytes
