"""Progress: one display for all bars in a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest

pytest.importorskip("rich", reason="progress is shown with the extra [experiments]")
from rich.console import Console
from rich.progress import Progress

from smoothout.common import interrupts, progress
from smoothout.common.interrupts import Interrupted, defer_signals
from smoothout.common.progress import LINE_SECONDS, Bar

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor, while a display is there


class Display(Progress):
    """A display that can be looked at, and that draws only when it is told to."""

    made: list[Display]

    def __init__(self, *columns: object, **settings: object) -> None:
        super().__init__(*columns, **settings, auto_refresh=False)
        Display.made.append(self)

    @property
    def open(self) -> bool:
        return self.live.is_started

    @property
    def seen(self) -> dict[str, float]:
        """How far each piece of work is."""
        return {task.description: task.completed for task in self.tasks}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets this many seconds pass, in no time."""
    clock = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def wait(seconds: float) -> None:
        clock[0] += seconds

    return wait


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to a terminal."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=200))
    monkeypatch.setattr(progress, "Progress", Display)
    Display.made = []
    return screen


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written without a terminal."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=False, soft_wrap=True))
    return file


# In a terminal


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first closed first", "last closed first"])
def test_bars_that_are_open_at_once_share_one_display_which_closes_with_the_last(
    terminal: io.StringIO, order: tuple[int, int]
) -> None:
    bars = Bar("one", 10), Bar("two", 20, done=5)
    for bar in bars:
        bar.__enter__()
    [display] = Display.made
    assert display.open
    assert display.seen == {"one": 0, "two": 5}
    first, last = order
    bars[first].__exit__(None, None, None)
    assert display.open
    assert display.seen == {("one", "two")[last]: (0, 5)[last]}
    assert terminal.getvalue().count(SHOW) == 0
    bars[last].__exit__(None, None, None)
    assert not display.open
    assert not display.seen
    assert (terminal.getvalue().count(HIDE), terminal.getvalue().count(SHOW)) == (1, 1)
    assert Display.made == [display]


# Elsewhere


def test_without_a_terminal_a_line_appears_when_a_minute_has_passed_since_the_last(
    log: io.StringIO, wait: Callable[[float], None]
) -> None:
    seconds = LINE_SECONDS / 4 + 1  # every fourth step is a line
    with Bar("run", 1000, done=100) as bar:
        for step in range(1, 11):
            wait(seconds)
            bar.step(f"epoch {step // 4}")
            assert len(log.getvalue().splitlines()) == step // 4
    assert log.getvalue().splitlines() == ["run: 104/1000 epoch 1", "run: 108/1000 epoch 2"]


def test_without_a_terminal_quick_work_is_silent_and_slow_work_says_every_step(
    log: io.StringIO, wait: Callable[[float], None]
) -> None:
    with Bar("quick", 50) as bar:
        for _ in range(50):
            bar.step()
            wait(0.99 * LINE_SECONDS / 50)
    assert not log.getvalue()
    with Bar("slow", 3) as bar:
        for _ in range(3):
            wait(3 * LINE_SECONDS)
            bar.step()
    assert [line.rstrip() for line in log.getvalue().splitlines()] == ["slow: 1/3", "slow: 2/3", "slow: 3/3"]


# Stopping


def test_a_tick_asks_whether_to_stop_and_takes_a_note(log: io.StringIO, wait: Callable[[float], None]) -> None:
    with pytest.raises(Interrupted), defer_signals(), Bar("work", 9) as bar:  # noqa: PT012
        wait(2 * LINE_SECONDS)
        bar.tick("a note")
        signal.raise_signal(signal.SIGINT)
        bar.tick("never said")
    assert log.getvalue().splitlines() == ["work: 1/9 a note"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_waits_for_the_next_question_and_a_second_is_obeyed(number: signal.Signals) -> None:
    class Obeyed(Exception):  # noqa: N818
        pass

    def obey(*_: object) -> None:
        raise Obeyed

    before = {one: signal.signal(one, obey) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(Interrupted), defer_signals():  # noqa: PT012  (at the latest at its end)
            assert not interrupts.pending_signal()
            interrupts.raise_if_interrupted()
            signal.raise_signal(number)
            assert interrupts.pending_signal()
            with pytest.raises(Interrupted, match=f"^by {number.name}; run the same command to resume$"):
                interrupts.raise_if_interrupted()
            with pytest.raises(Obeyed):
                signal.raise_signal(number)
        with defer_signals():
            assert not interrupts.pending_signal(), "what was asked in an earlier block is over"
        assert signal.getsignal(number) is obey
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
