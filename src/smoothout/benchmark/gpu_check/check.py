"""A check: what it finds, what a failure means, and how all of them are carried out and reported."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Say = Callable[[str], None]
_MARKS = {True: "ok    ", False: "FAILED", None: "-     "}


@dataclass(frozen=True)
class Found:
    """What a check has found; ``holds`` is None where it could not be made, or only shows something."""

    holds: bool | None
    text: str


def not_checked(reason: str) -> Found:
    """A check that this machine does not allow."""
    return Found(None, f"not checked: {reason}")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: the line's beginning.
        work: makes the check on a device. The second paragraph of its docstring says what a failure means.
        arguments: what else ``work`` is called with.
    """

    name: str
    work: Callable[..., Found]
    arguments: Sequence[Any] = ()

    def made(self, device: torch.device) -> Found:
        """What it finds; an error is a failure, and no reason to end the others."""
        try:
            return self.work(device, *self.arguments)
        except Exception as error:
            return Found(False, _told(error))

    @property
    def meaning(self) -> str:
        """What it means when the check fails, and what a user can do."""
        paragraphs = (inspect.getdoc(self.work) or "").split("\n\n")
        return " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""


def carry_out(checks: Iterable[Check], device: torch.device, say: Say) -> bool:
    """Make all ``checks``, a line each, and sum up; returns whether none failed.

    What a failure means is said after the first of its kind.
    """
    begun, found, meanings = time.perf_counter(), list[Found](), set[str]()
    for check in checks:
        since = time.perf_counter()
        found.append(check.made(device))
        say(f"{_MARKS[found[-1].holds]} {check.name}: {found[-1].text} ({time.perf_counter() - since:.1f} s)")
        if found[-1].holds is False and check.meaning not in meanings:
            meanings.add(check.meaning)
            say(f"       {check.meaning}")
        _give_back(device)
    held, failed = (sum(one.holds is way for one in found) for way in (True, False))
    say(f"{held} checks hold, {failed} failed ({time.perf_counter() - begun:.0f} s)")
    return failed == 0


def _told(error: BaseException) -> str:
    """The error in one line, with the one that it began with: a capture that breaks off hides what broke it."""
    line = f"{type(error).__name__}: {' '.join(str(error).strip().splitlines()[:1])[:200]}"
    first = None if error.__suppress_context__ else error.__context__
    return line if first is None else f"{line}; it began with {_told(first)}"


def _give_back(device: torch.device) -> None:
    """Leave nothing of a check, a failed one's tensors included, to the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
