"""Programs killed again and again: each next call resumes, no record is lost or torn, and the end has the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from smoothout.results.records import read_record
from soak.processes import QUIET, Aim, Command, Moment, kill, kind, said, wait_for, written

TIMES = {"wall_seconds", "train_seconds", "seconds", "machines", "peak_memory"}  # what may differ between two runs
_RUN = (*QUIET, "batch=large", "checkpoint_seconds=0")
WORK = {
    "training": Command("train", (*_RUN, "method=smoothout", "schedule.epochs=15")),
    "analysis": Command("analyze", (*_RUN, "schedule.epochs=8", "analysis=landscape", "analysis.examples=400")),
    "table": Command(
        "reproduce",
        (
            *QUIET,
            "checkpoint_seconds=0",
            "table=quickstart",
            "table.metrics=[best,late,last,sharpness_keskar]",
            "rows=['720']",
            "scope.profile=smoke",
        ),
    ),
    "sweep": Command("train", ("-m", *_RUN, "schedule.epochs=4", "seed=0,1", "method=none,adasmoothout")),
}


class Broken(Exception):  # noqa: N818
    """A promise that did not hold; the message says which."""


@dataclass(frozen=True)
class Strike:
    """One death that was survived: what was killed, by which signal, and where it struck."""

    work: str
    signal: str
    where: str


@dataclass(frozen=True)
class Unbroken:
    """What a command leaves when nothing stops it, how long it takes, how many files it writes; and where it is."""

    work: str
    command: Command
    scripts: Path
    left: dict[str, Any]
    seconds: float
    writes: int


def unbroken(work: str, scripts: Path, folder: Path) -> Unbroken:
    """Run one of WORK in a new folder."""
    command = WORK[work]
    began = time.monotonic()
    code = command.run(scripts, folder)
    seconds = time.monotonic() - began
    if code != 0:
        raise Broken(f"the unbroken run ended with {code}: {said(folder)[-1:]}")
    writes = sum(moment == Moment.renamed for _, moment, _ in written(folder))
    return Unbroken(work, command, scripts, left(folder), seconds, writes)


def survive(whole: Unbroken, kills: int, seed: int, folder: Path) -> Iterator[Strike]:
    """Kill a command so often, from one call to the next, half of the times inside a write; yields what was survived.

    Raises Broken where a promise does not hold: after every death (``_check``), and at every end.
    """
    command, scripts, chance = whole.command, whole.scripts, random.Random(f"{seed} {whole.work}")
    life, done = 0, 0
    while done < kills:
        here = folder / f"life{life}"
        before = _records(here)
        if chance.random() < 0.5:
            process = command.started(scripts, here, Aim(chance.randint(1, whole.writes), chance.choice(list(Moment))))
            process.join()
        else:
            process = command.started(scripts, here)
            kill(process, chance.uniform(0, whole.seconds))
        steps = [step for step in written(here) if step[0] == str(process.pid)]
        _check(here, before)
        if process.exitcode == -signal.SIGKILL:
            done += 1
            yield Strike(whole.work, "SIGKILL", _where(here, process.pid, steps))
        else:
            _compare(here, whole, process.exitcode)
            life += 1
    last = folder / f"life{life}"
    _compare(last, whole, command.run(scripts, last))


def stop(whole: Unbroken, number: signal.Signals, seed: int, folder: Path) -> Strike:
    """Send ``number`` to a command at a random moment after its first checkpoint: one line, and it can resume."""
    chance = random.Random(f"{seed} {whole.work} {number}")
    for attempt in count(1):
        here = folder / f"attempt{attempt}"
        process = whole.command.started(whole.scripts, here)
        wait_for(lambda: any((here / "checkpoints").glob("*.pt")), process.is_alive)  # noqa: B023
        process.join(chance.uniform(0, 0.2 / attempt))
        if process.is_alive():  # else it was faster
            break
    os.kill(process.pid or 0, number)
    process.join()
    lines, wanted = said(here), f"stopped: by {number.name}; run the same command to resume"
    if process.exitcode != 128 + number or lines.count(wanted) != 1:
        raise Broken(f"{number.name} ended with {process.exitcode} and {lines[-3:]}")
    _check(here, {})
    _compare(here, whole, whole.command.run(whole.scripts, here))
    return Strike(whole.work, number.name, "checkpoint left, one line, exit code " + str(128 + number))


def left(folder: Path) -> dict[str, Any]:
    """What a command has left in ``folder`` that must be the same every time: outcomes of records, rendered files."""
    results = folder / "results"
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("*")):
        if path.parent.name in ("tables", "figures") and ".part" not in path.name:
            found[path.name] = path.read_bytes()
        elif path.suffix == ".json":
            record = read_record(path)
            found[record.name] = _without_times({"settings": record.settings, "outcome": record.outcome})
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return value


def _records(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "results").glob("*/*.json")}


def _check(folder: Path, before: dict[str, bytes]) -> None:
    """After a death: no record is lost, changed or torn, every checkpoint can be read, and no lock is held."""
    now = _records(folder)
    for path in (folder / "results").glob("*/*.json"):
        read_record(path)
    for name, content in before.items():
        if now.get(name) != content:
            raise Broken(f"{name} was {'changed' if name in now else 'lost'}")
    for path in (folder / "checkpoints").glob("*.pt"):
        json.loads(torch.load(path, weights_only=True)["json"])
    for path in folder.glob("*/.locks/*.lock"):
        with FileLock(path).acquire(timeout=0):
            pass


def _compare(folder: Path, whole: Unbroken, code: int | None) -> None:
    """After an end: all that is left is what an unbroken run leaves, to the last bit."""
    lines = said(folder)
    if code != 0:
        raise Broken(f"the next call ended with {code}: {lines[-1:]}")
    here = left(folder)
    if here != whole.left:
        names = sorted(name for name in here | whole.left if here.get(name) != whole.left.get(name))
        raise Broken(f"{folder}: {', '.join(names)} differ from an unbroken run's")
    rests = [path.name for path in folder.glob("[rc]*/**/*.part*") if kind(path.name) != "table"]
    if rests:
        raise Broken(f"{', '.join(rests)} stayed behind")


def _where(folder: Path, pid: int | None, steps: list[list[str]]) -> str:
    """Where a process was when it died, by what it left and what it had reported."""
    rest = next(folder.glob(f"[rc]*/**/*.part{pid}-*"), None)
    _, moment, name = steps[-1] if steps else ("", "", "")
    if rest is not None and f".part{pid}-" not in name:
        return f"{kind(rest.name)}: temporary file begun"
    if moment in (Moment.half, Moment.written, Moment.synced):
        return f"{kind(name)}: {moment}"
    return f"after writing a {kind(name)}" if name else "before anything was written"
