"""A reproduction in the terminal: its plan, its jobs one after another, its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from smoothout import cli
from smoothout.jobs import Workplace, ensure, recorded
from smoothout.pictures import Picture
from smoothout.progress import console
from smoothout.reproduction import Costs, Reproduction
from smoothout.tables import Table, duration, plain_rows

_out = Console(highlight=False)


def make(wanted: Sequence[Reproduction | Picture], place: Workplace) -> int:
    """Show the plan and make what is missing, one job after another; returns the exit code.

    A job that fails is named at the end and sinks none but those that build on it.
    """
    _plan(wanted, place)
    code, failed = 0, {}
    for job in {job.digest: job for one in wanted for job in one.jobs()}.values():
        if any(one.digest in failed for one in job.inputs):
            continue
        try:
            ensure(job, place)
        except Exception as error:  # whatever it is, the other jobs go on
            failed[job.digest] = f"{job.name}: {cli.one_line(error)}"
            code = max(code, cli.report(error, Path(place.folders.logs) / f"{job.name}.txt"))
    for line in failed.values():
        console.print(f"failed: {line}", markup=False)
    return code


def _plan(wanted: Sequence[Reproduction | Picture], place: Workplace) -> None:
    """Say how many jobs of each row are there, how many are to run, and for how long."""
    grid = Grid("", "there", "to run", "estimated", box=box.SIMPLE)
    costs, total, missing = Costs(place), 0.0, 0
    for title, jobs in (item for one in wanted for item in one.plan().items()):
        to_run = {job: seconds for job, seconds in jobs.items() if recorded(job, place) is None}
        hours = [costs.hours(job, seconds) for job, seconds in to_run.items()]
        spent = sum(h for h in hours if h is not None)
        estimate = duration(spent) + (" and more" if None in hours else "") if to_run else ""
        grid.add_row(title, str(len(jobs) - len(to_run)), str(len(to_run)), estimate)
        total, missing = total + spent, missing + len(to_run)
    _out.print(grid)
    if missing:
        _out.print(f"{missing} jobs to run: about {duration(total)} here; interrupted, the same command goes on\n")


def show(table: Table) -> None:
    """Print the table."""
    _out.print(f"\n{table.title}\n{table.caption()}", markup=False)
    for block in table.blocks:
        frame = table.wide(block)
        grid = Grid(*frame.columns, title=block.heading, title_justify="left", box=box.SIMPLE)
        for row in plain_rows(frame):
            grid.add_row(*(text.replace("[", r"\[") for text in row))
        _out.print(grid)
    for note in table.notes:
        _out.print(note, markup=False)
