"""An interrupt ends a program as an interrupt, wherever it strikes."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
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


def test_an_interrupt_within_omegaconf_stays_an_interrupt() -> None:
    config = pytest.importorskip("omegaconf", reason="comes with the extra [experiments]").OmegaConf

    def build_list() -> None:
        config.create({"a": [1, [2, {"b": 3}]]})

    for lines in count(1):
        try:
            with raise_on_signals():
                reached = _signal_after(lines, build_list)
        except Interrupted:  # some of them replace an AttributeError of OmegaConf's clean-up
            continue
        if not reached:
            break
    assert lines > 500


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
