"""Broken and hostile input: every case must end in a line that names what is wrong, code 2, and the disk unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from helpers.common import tree

from soak.kills import Broken
from soak.processes import QUIET, Command, said, written

RUN = (*QUIET, "batch=large", "schedule.epochs=2")  # a training of a moment
_AT_ONCE = 2


@dataclass(frozen=True)
class Case:
    """A call with something wrong.

    Attributes:
        program: one of scripts/, ``arguments`` are its own.
        words: what the one line must hold: the culprit, its value, and what is allowed.
        spoil: what is done to the folder before, in which a training of RUN has left its record and its weights.
    """

    program: str
    arguments: tuple[str, ...]
    words: str
    spoil: Callable[[Path], None] | None = None

    @property
    def command(self) -> Command:
        """What is called."""
        return Command(self.program, self.arguments)

    def __str__(self) -> str:
        what = self.spoil.__name__.strip("_") if self.spoil else " ".join(a for a in self.arguments if a not in RUN)
        return f"{self.program}: {what}"


def template(scripts: Path, folder: Path) -> Path:
    """``folder`` with the record and the weights of a training of RUN."""
    if Command("train", RUN).run(scripts, folder) != 0:
        raise Broken(f"a training of {RUN} failed: {said(folder)[-1:]}")
    said(folder)
    written(folder)
    return folder


def prepare(case: Case, trained: Path, folder: Path) -> dict[str, str]:
    """Make ``folder`` from the template ``trained``, spoil it, and say what is in it."""
    shutil.copytree(trained, folder)
    if case.spoil:
        case.spoil(folder)
    return tree(folder)


def judge(case: Case, code: int | None, lines: list[str], unchanged: bool) -> None:
    """Raise Broken unless the case ended as it must: with one line about the error, whatever Hydra warned of before."""
    lines = [line for line in lines if not line.startswith("warning: ")]
    told = len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in case.words.split())
    if not (code == 2 and told and unchanged):
        disk = "unchanged" if unchanged else "changed"
        raise Broken(f"{case}: code {code}, the disk {disk}, {len(lines)} lines: {lines[:1]} {lines[-1:]}")


def try_all(cases: Iterable[Case], scripts: Path, folder: Path) -> int:
    """Try every case in a separate process; returns how many there were. Raises Broken."""
    trained, left, count = template(scripts, folder / "trained"), iter(cases), 0
    while chunk := list(islice(left, _AT_ONCE)):
        begun = []
        for number, case in enumerate(chunk, start=count):
            here = folder / f"case{number}"
            before = prepare(case, trained, here)
            begun.append((case, here, before, case.command.started(scripts, here)))
        for case, here, before, process in begun:
            process.join()
            judge(case, process.exitcode, said(here), tree(here) == before)
            shutil.rmtree(here)
        count += len(chunk)
    return count
