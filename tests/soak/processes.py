"""The programs in separate processes, which are killed, or kill themselves in the middle of writing a file.

Processes are forked from a server that has imported everything, what the digits and a first optimizer import too: a
start takes a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

PLACES = ("data", "results", "checkpoints", "logs")
QUIET = ("device=cpu", "threads=1", "tensorboard=false", "download=false")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "smoothout.cli.plan",
        "smoothout.reproduction.figure",
        "smoothout.reproduction.choose_strength",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)
_KINDS = {".pt": "checkpoint", ".json": "record", ".md": "table", ".csv": "table", ".tex": "table", ".npz": "data"}


class Moment(StrEnum):
    """Where within the writing of a file a process kills itself."""

    half = "half of the temporary file written"
    written = "written, not synced"
    synced = "synced, not renamed"
    renamed = "just renamed"


@dataclass(frozen=True)
class Aim:
    """The ``write``-th file (from 1) that a process writes, and the moment of that."""

    write: int
    moment: Moment


@dataclass(frozen=True)
class Command:
    """One of scripts/ and its arguments; everything it reads and writes lies in the folder that it is started in."""

    program: str
    arguments: tuple[str, ...]

    def started(self, scripts: Path, folder: Path, aim: Aim | None = None) -> BaseProcess:
        """Start it in ``folder``; what it prints and writes is kept next to it, see ``said`` and ``written``."""
        folder.mkdir(parents=True, exist_ok=True)
        script = str(scripts / f"{self.program}.py")
        process = SERVER.Process(target=_run, args=(script, list(self.arguments), str(folder), aim))
        process.start()
        return process

    def as_a_user(self, scripts: Path, folder: Path) -> subprocess.Popen[str]:
        """Start it from nothing, as a shell does: a program that starts processes needs that."""
        folder.mkdir(parents=True, exist_ok=True)
        script = str((scripts / f"{self.program}.py").resolve())
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **_places(folder), "PYTHONPATH": path}
        return subprocess.Popen(
            [sys.executable, script, *self.arguments],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, scripts: Path, folder: Path) -> int | None:
        """Run it to its end; returns the exit code."""
        process = self.started(scripts, folder)
        process.join()
        return process.exitcode


def said(folder: Path) -> list[str]:
    """The lines that the processes in ``folder`` have printed, and forgets them."""
    return _taken(folder.with_suffix(".said"))


def written(folder: Path) -> list[list[str]]:
    """Process, moment and file of every step of every write in ``folder``, and forgets them."""
    return [line.split("\t") for line in _taken(folder.with_suffix(".written"))]


def kind(name: str) -> str:
    """What a file of that name is."""
    return _KINDS.get(Path(re.sub(r"\.part\d+-\w+$", "", name)).suffix, "figure")


def kill(process: BaseProcess, seconds: float) -> None:
    """Kill -9 the process after this many seconds, unless it ends before."""
    process.join(seconds)
    process.kill()
    process.join()


def wait_for(there: Callable[[], bool], running: Callable[[], bool]) -> None:
    """Wait until something is there, or what should make it has ended."""
    while running() and not there():
        time.sleep(0.002)


def _places(folder: Path) -> dict[str, str]:
    return {f"SMOOTHOUT_{name.upper()}": str(folder.resolve() / name) for name in PLACES}


def _taken(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def _run(script: str, arguments: list[str], folder: str, aim: Aim | None) -> None:
    """In the new process: the program, with its folders, its output and its writes where they belong."""
    here = Path(folder)
    os.environ.update(_places(here))
    os.chdir(here)
    output = os.open(here.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _watch_writes(os.open(here.with_suffix(".written"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), aim)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _watch_writes(report: int, aim: Aim | None) -> None:
    """Report every step of every whole file that is written, and die at the one that is aimed at."""
    sync, replace, count = os.fsync, os.replace, 0

    def at(moment: Moment, name: str) -> None:
        os.write(report, f"{os.getpid()}\t{moment}\t{name}\n".encode())
        if aim == Aim(count, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(fd: int) -> None:
        nonlocal count
        name = Path(f"/proc/self/fd/{fd}").resolve().name
        if ".part" not in name:
            return sync(fd)
        count += 1
        if aim == Aim(count, Moment.half):
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
            at(Moment.half, name)
        at(Moment.written, name)
        sync(fd)
        return at(Moment.synced, name)

    def renamed(source: Any, target: Any, **folders: Any) -> None:
        replace(source, target, **folders)
        if ".part" in Path(source).name:
            at(Moment.renamed, Path(target).name)

    os.fsync, os.replace = fsync, renamed  # type: ignore[assignment]
