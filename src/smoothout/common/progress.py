"""Show progress: a bar in a terminal, an occasional line elsewhere."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smoothout.common.interrupts import raise_if_interrupted

LINE_SECONDS = 60.0  # between two lines without a terminal
REDRAW_SECONDS = 0.1  # between two updates of a bar: drawing takes longer than a small network's step
console = Console(stderr=True, highlight=False, soft_wrap=True)
_output = Console(highlight=False)


def print_line(text: str) -> None:
    """Print ``text`` on stdout with a single write, so that the processes of a sweep do not mix their lines.

    If the reader of stdout has exited (a pipe into `head`), rich ends the program silently.
    """
    _output.out(text, highlight=False)


class Bar:
    """Progress of one task: call ``step()`` after each part; ``note`` is shown next to the bar.

    Bars that are open at the same time share one display.
    """

    _display: ClassVar[Progress | None] = None
    _open: ClassVar[int] = 0

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._note = title, total, done, ""
        self._shown_at = time.monotonic()

    def __enter__(self) -> Bar:
        if console.is_terminal:
            if Bar._display is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
                Bar._display = Progress(*columns, *times, console=console, transient=True)
                Bar._display.start()
            self._task = Bar._display.add_task(self._title, total=self._total, completed=self._done, note="")
            Bar._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        if Bar._display is not None:
            Bar._display.remove_task(self._task)
            Bar._open -= 1
            if not Bar._open:
                Bar._display.stop()
                Bar._display = None

    def tick(self, note: str | None = None) -> None:
        """Count a part, at a point where work may be interrupted. Raises Interrupted if a signal is pending."""
        raise_if_interrupted()
        self.step(note)

    def step(self, note: str | None = None) -> None:
        """Count a part."""
        self._done += 1
        self._note = self._note if note is None else note
        seconds = time.monotonic() - self._shown_at
        if Bar._display is not None:
            if seconds > REDRAW_SECONDS or self._done == self._total:
                self._shown_at += seconds
                Bar._display.update(self._task, completed=self._done, note=self._note)
        elif seconds > LINE_SECONDS:
            self._shown_at += seconds
            console.print(f"{self._title}: {self._done}/{self._total} {self._note}")
