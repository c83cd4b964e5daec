"""The soak test: every attempt to break the programs, one after another, and a report of what was survived."""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers.paths import RESULTS, SCRIPTS

from smoothout.common.environment import device_of, environment
from smoothout.common.files import atomic_write_text
from smoothout.common.progress import Bar, print_line
from soak import bad_input_runner, concurrency, kills
from soak.bad_inputs import CASES
from soak.kills import Strike

_SHARES = {"training": 0.4, "analysis": 0.25, "table": 0.15, "sweep": 0.2}  # of all kills
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Soak:
    """How much is tried.

    Args:
        kills: how often a program is killed in all.
        writers: processes that record into one folder at once.
        sweep: seeds of a sweep over four times as many settings.
        inputs: try only this many broken inputs; None is all.
        seed: of the moments.
    """

    kills: int = 100
    writers: int = 8
    sweep: int = 25
    inputs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("kills", 4), ("writers", 2), ("sweep", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        if self.inputs is not None and self.inputs < 1:
            raise ValueError(f"inputs: must be null (all) or at least 1, not {self.inputs}")

    def of_work(self) -> dict[str, int]:
        """How often each kind of work is killed."""
        counts = {work: max(1, int(share * self.kills)) for work, share in _SHARES.items()}
        counts["training"] += self.kills - sum(counts.values())
        return counts

    @property
    def parts(self) -> int:
        """How often ``run`` calls its ``tick``."""
        return self.kills + len(_SIGNALS) * len(kills.WORK) + 3


@dataclass(frozen=True)
class Survived:
    """What a soak went through: deaths, runs of the writers, runs of the sweep (done, failed), inputs by program."""

    strikes: list[Strike]
    runs: int
    swept: tuple[int, int]
    refused: Counter[str]
    seconds: float


def run(soak: Soak, scripts: Path, tick: Callable[[str], None]) -> Survived:
    """Try it all in its own folder. Raises Broken where a promise does not hold."""
    began, strikes = time.monotonic(), list[Strike]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = {work: kills.unbroken(work, scripts, folder / "unbroken" / work) for work in kills.WORK}
        for work, count in soak.of_work().items():
            for strike in kills.survive(whole[work], count, soak.seed, folder / "kills" / work):
                strikes.append(strike)
                tick(f"{work}: {strike.where}")
        for number in _SIGNALS:
            for work in kills.WORK:
                here = folder / "stops" / number.name / work
                strikes.append(kills.stop(whole[work], number, soak.seed, here))
                tick(f"{work}: {number.name}")
        runs = concurrency.write_at_once(soak.writers, scripts, folder / "writers")
        tick(f"{soak.writers} writers")
        swept = concurrency.sweep(soak.sweep, scripts, folder / "sweep")
        tick("a sweep")
        cases = CASES[: soak.inputs]
        bad_input_runner.try_all(cases, scripts, folder / "inputs")
        tick(f"{len(cases)} inputs")
    refused = Counter(case.program for case in cases)
    return Survived(strikes, runs, swept, refused, time.monotonic() - began)


def markdown(soak: Soak, survived: Survived, machine: dict[str, Any]) -> str:
    """The report."""
    killed = [strike for strike in survived.strikes if strike.signal == "SIGKILL"]
    stopped = [strike for strike in survived.strikes if strike.signal != "SIGKILL"]
    within = sum(": " in strike.where for strike in killed)
    done, failed = survived.swept
    on = f"{device_of(machine)}, {machine['cores']} cores, torch {machine['versions']['torch']}"
    programs = ", ".join(f"{count} of {program}.py" for program, count in survived.refused.items())
    parts = [
        "# Reliability",
        f"Written by `make soak`: seed {soak.seed}, {survived.seconds / 60:.0f} minutes on {on},"
        f" commit {machine['commit']}. Nothing was broken, or this file would not have been written.",
        f"## {len(killed)} kills survived, {within} of them within a write",
        "Each time no record was lost, changed or torn, every checkpoint could be read, the next call resumed, and at"
        " the end weights, curves, records and tables had the bits of an unbroken run.",
        _table(killed, "where the process died"),
        f"## {len(stopped)} stops by a signal",
        "One line, a checkpoint, the signal's exit code; the next call resumed to the same bits.",
        _table(stopped, "how it ended"),
        "## Many at once",
        f"- {soak.writers} processes recorded into one folder, two of them the same run: {survived.runs} runs were"
        " made, each once and by one process; the run of the two had the bits that it has alone.\n"
        f"- A sweep over {done + failed} settings with a pool of two processes was killed and called again: {done}"
        f" records, {failed} impossible settings listed at the end with their reason, exit code 2. A third call made"
        " nothing.",
        f"## {sum(survived.refused.values())} broken inputs refused",
        "Each in one line that names what is wrong, with exit code 2; a listing with digests showed the disk unchanged,"
        f" and no payload was executed: {programs}.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(strikes: list[Strike], title: str) -> str:
    """How often each kind of work was struck where."""
    frame = pd.crosstab(
        pd.Series([f"{strike.signal}: {strike.where}" for strike in strikes], name=title),
        pd.Series([strike.work for strike in strikes], name="work"),
    )
    ordered = frame[[work for work in kills.WORK if work in frame]]
    return str(ordered.reset_index().to_markdown(index=False))


def main(arguments: list[str] | None = None) -> None:
    """Try as much as the command line asks for, and write results/reliability.md."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    for name, usual, about in (
        ("kills", Soak.kills, "kill -9 of a training, an analysis, a table and a sweep, half of them within a write"),
        ("writers", Soak.writers, "processes that record into one folder at once"),
        ("sweep", Soak.sweep, "seeds of a sweep over four times as many settings"),
        ("inputs", Soak.inputs, "only the first N broken inputs (default: all)"),
        ("seed", Soak.seed, "of the moments"),
    ):
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=about)
    try:
        wanted = Soak(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))
    with Bar("soak", wanted.parts) as bar:
        survived = run(wanted, SCRIPTS, bar.tick)
    path = RESULTS / "reliability.md"
    atomic_write_text(path, markdown(wanted, survived, environment(torch.device("cpu"))))
    print_line(f"written: {path}")
