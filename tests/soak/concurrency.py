"""Many at once: processes that record into one folder, and a sweep that is killed, resumes, and repeats nothing."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from smoothout.data.datasets import DatasetName, load
from soak.kills import Broken, left
from soak.processes import QUIET, Command, Moment, said, wait_for, written

_TINY = (*QUIET, "batch=large", "checkpoint_seconds=0")


def write_at_once(writers: int, scripts: Path, folder: Path) -> int:
    """Let this many processes train at once, the last two the same run; returns how many runs were made.

    Raises Broken where one fails, a run is trained or recorded by two processes, or differs from what it is alone.
    """
    commands = [Command("train", (*_TINY, "schedule.epochs=10", f"seed={min(i, writers - 2)}")) for i in range(writers)]
    together = folder / "together"
    processes = [command.started(scripts, together) for command in commands]
    for process in processes:
        process.join()
    lines = [line for line in said(together) if not line.startswith("waiting for another process")]
    codes = [process.exitcode for process in processes]
    if any(codes) or len(lines) != writers:
        raise Broken(f"{writers} writers ended with {codes}: {lines[-1:]}")
    makers = defaultdict[str, set[str]](set)
    for pid, moment, name in written(together):
        if moment == Moment.renamed:
            makers[name].add(pid)
    twice = [name for name, pids in makers.items() if len(pids) > 1]
    if twice:
        raise Broken(f"{', '.join(twice)}: written by more than one process")
    for command in commands[-2:]:
        command.run(scripts, folder / "alone")
    alone, all_of_them = left(folder / "alone"), left(together)
    if any(all_of_them.get(name) != value for name, value in alone.items()):
        raise Broken(f"{', '.join(alone)} came out otherwise than alone")
    if len(all_of_them) != writers - 1:
        raise Broken(f"{len(all_of_them)} records of {writers - 1} runs")
    return len(all_of_them)


def sweep(seeds: int, scripts: Path, folder: Path, processes: int = 2) -> tuple[int, int]:
    """Sweep over ``seeds`` x 4 settings with the local launcher, a quarter of them impossible; how many of each.

    The sweep is killed half-way, resumes, and is called a third time. Raises Broken where its exit code is not 2, a run
    that failed is not listed at the end, one is missing or says nothing, or the third call makes anything.
    """
    grid = (f"seed=range({seeds})", "method.a=0,0.02,0.05,-1")
    launcher = ("hydra/launcher=local", f"hydra.launcher.n_jobs={processes}")
    command = Command("train", ("-m", *_TINY, "schedule.epochs=1", *grid, *launcher))
    data = folder / "data"
    data.mkdir(parents=True)
    np.savez(data / "digits.npz", **load(DatasetName.digits, data)._asdict())  # so that no process imports scikit-learn
    records = folder / "results" / "train"
    with command.as_a_user(scripts, folder) as first:
        wait_for(lambda: len(list(records.glob("*.json"))) >= seeds, lambda: first.poll() is None)
        first.kill()
    for call in ("second", "third"):
        before = _files(folder)
        with command.as_a_user(scripts, folder) as process:
            out, lines = (text.splitlines() for text in process.communicate())
        code, failed = process.returncode, [line for line in lines if line.startswith("failed: ")]
        if (code, len(failed), len(left(folder))) != (2, seeds, 3 * seeds) or lines[-seeds:] != failed:
            raise Broken(f"{call} call: code {code}, {len(failed)} failed, {len(left(folder))} records; {lines[-1:]}")
        reasons = [line for line in failed if "method.a=-1: method.a: " in line]
        if len(reasons) != seeds:
            raise Broken(f"{call} call: a failed run is listed without its reason: {failed[-1]}")
        if sorted(line.partition(":")[0] for line in out) != sorted(left(folder)):
            raise Broken(f"{call} call: {len(out)} lines about {len(left(folder))} records")
        if call == "third" and _files(folder) != before:
            raise Broken("the third call made what was there")
    return 3 * seeds, seeds


def _files(folder: Path) -> dict[str, int]:
    """When each record and checkpoint was written."""
    paths = [*folder.glob("results/train/*.json"), *folder.glob("checkpoints/*.pt")]
    return {path.name: path.stat().st_mtime_ns for path in paths}
