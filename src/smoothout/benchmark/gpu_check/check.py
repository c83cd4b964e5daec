"""A check: what it finds, what a failure means, and how all of them are run and reported."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_MARKS = {True: "ok    ", False: "FAILED", None: "-     "}


@dataclass(frozen=True)
class Finding:
    """What a check finds; ``passed`` is None if it could not be made, or only shows something."""

    passed: bool | None
    text: str


def not_checked(reason: str) -> Finding:
    """The finding of a check that this machine does not allow."""
    return Finding(None, f"not checked: {reason}")


@dataclass(frozen=True)
class Check:
    """One line of the report: it begins with ``name``; ``work`` makes the check on a device, with ``arguments``.

    The second paragraph of the docstring of ``work`` says what a failure means.
    """

    name: str
    work: Callable[..., Finding]
    arguments: Sequence[Any] = ()

    def run(self, device: torch.device) -> Finding:
        """Make the check; an exception is a failure, and does not stop the other checks."""
        try:
            return self.work(device, *self.arguments)
        except Exception as error:
            return Finding(False, _one_line(error))

    @property
    def meaning(self) -> str:
        """What it means if the check fails, and what a user can do."""
        _, *paragraphs = (inspect.getdoc(self.work) or "").split("\n\n")
        return " ".join(paragraphs[0].split()) if paragraphs else ""


def run_checks(checks: Iterable[Check], device: torch.device, print_line: Callable[[str], None]) -> bool:
    """Run all ``checks``, a line each, and sum up; returns whether none failed.

    What a failure means is printed after the first of its kind.
    """
    start, findings, meanings = time.perf_counter(), list[Finding](), set[str]()
    for check in checks:
        since = time.perf_counter()
        finding = check.run(device)
        findings.append(finding)
        print_line(f"{_MARKS[finding.passed]} {check.name}: {finding.text} ({time.perf_counter() - since:.1f} s)")
        if finding.passed is False and check.meaning not in meanings:
            meanings.add(check.meaning)
            print_line(f"       {check.meaning}")
        # Free all tensors of a check, even of a failed one, before the next one.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    passed, failed = (sum(finding.passed is kind for finding in findings) for kind in (True, False))
    print_line(f"{passed} checks passed, {failed} failed ({time.perf_counter() - start:.0f} s)")
    return failed == 0


def _one_line(error: BaseException) -> str:
    """The error and its first cause, which the error of a failed capture hides."""
    line = f"{type(error).__name__}: {' '.join(str(error).strip().splitlines()[:1])[:200]}"
    first = None if error.__suppress_context__ else error.__context__
    return line if first is None else f"{line}; it began with {_one_line(first)}"
