"""An interrupt ends a program as an interrupt, wherever it strikes."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType

import pytest

from smoothout.common.interrupts import Interrupted, interrupt_behind, raise_on_signals


def _signal_after(lines: int, work: Callable[[], object]) -> bool:
    """Run ``work`` and send SIGINT after so many of its lines; returns whether it came to that."""
    left = lines

    def trace(_frame: FrameType, event: str, _argument: object) -> object:
        nonlocal left
        left -= event in ("line", "call")
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return trace

    before = sys.gettrace()
    gc.disable()  # what a callback of the collector raises is ignored
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return left <= 0


def _interrupted_everywhere(work: Callable[[], object]) -> Iterator[int]:
    """Interrupt ``work`` after each of its lines in turn; yields how many lines there were.

    A generator, because CPython 3.11 can leave the exception that a trace function's error struck in as the one being
    handled: the end of a generator drops it, the end of a function would hand it to every later test.
    """
    for lines in count(1):
        try:
            with raise_on_signals():
                reached = _signal_after(lines, work)
        except Interrupted:  # some of them replace an AttributeError of OmegaConf's clean-up
            continue
        if not reached:
            break
    yield lines


def test_an_interrupt_within_omegaconf_stays_an_interrupt() -> None:
    config = pytest.importorskip("omegaconf", reason="comes with the extra [experiments]").OmegaConf

    def build_list() -> None:
        config.create({"a": [1, [2, {"b": 3}]]})

    [lines] = _interrupted_everywhere(build_list)
    assert lines > 500
    assert sys.exc_info() == (None, None, None)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(KeyError) as caught, raise_on_signals():
        {}["missing"]
    assert interrupt_behind(caught.value) is None


def test_errors_that_refer_to_each_other_end_the_search() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert interrupt_behind(first) is None
    second.__cause__ = Interrupted(2)
    assert interrupt_behind(first) is second.__cause__
