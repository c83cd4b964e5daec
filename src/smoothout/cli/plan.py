"""Several jobs in the terminal: their plan, one after another, the table that comes of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from smoothout.cli import app
from smoothout.cli.error_messages import JobsFailedError, format_error
from smoothout.common.errors import DataError
from smoothout.common.formatting import format_duration
from smoothout.common.progress import console
from smoothout.config.experiment import Experiment
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.jobs.prepared_run import checkpoint_path, load_splits
from smoothout.jobs.runner import run_jobs, validate_job
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.slurm import JobRunner
from smoothout.results.records import Record

if TYPE_CHECKING:
    from smoothout.results.tables import Table  # whoever has a table has paid for pandas

FILE_WIDTH = 200  # of tables that go into a file or a pipe: no table is wider
_out = Console(highlight=False)
if not _out.is_terminal:
    _out.width = FILE_WIDTH


class Target(Protocol):
    """A table, a picture or a choice: what it needs."""

    def jobs(self) -> list[Job]: ...  # noqa: D102
    def plan(self) -> dict[str, dict[Job, float | None]]: ...  # noqa: D102


def plan_and_run(wanted: Sequence[Target], runtime: Runtime, carry_out: JobRunner = run_jobs) -> JobsFailedError | None:
    """Show the plan and make what is missing, trainings first, by ``carry_out``.

    A job that fails is named at the end and sinks none but those that build on it. Data that are not here are said
    before the plan, and sink their own jobs. Returns what to raise, in the end, where jobs were lost; what there is can
    be shown before. Raises DataError where no missing job has its data.
    """
    unique = {job.digest: job for one in wanted for job in one.jobs()}.values()
    lacking = _lacking(unique, runtime) if carry_out is run_jobs else {}
    for error in lacking.values():
        app.report_error(error)
    jobs = [job for job in unique if _data(job) not in lacking]
    _plan(wanted, runtime, lacking)
    code, failed = 2 if lacking else 0, dict[str, str]()
    trainings, analyses = ([job for job in jobs if bool(job.dependencies) is analysis] for analysis in (False, True))
    possible = (job for job in analyses if not any(one.digest in failed for one in job.dependencies))
    for job, outcome in chain(carry_out(trainings, runtime), carry_out(possible, runtime)):
        if isinstance(outcome, Exception):  # whatever it is, the other jobs go on
            failed[job.digest] = f"{job.name}: {format_error(outcome)}"
            code = max(code, app.report_error(outcome, Path(runtime.folders.logs) / f"{job.name}.txt"))
    for line in failed.values():
        console.print(f"failed: {line}", markup=False)
    lost = len(failed) + len(unique) - len(jobs)
    return JobsFailedError(lost, code) if code else None


def _data(job: Job) -> str | None:
    """The name of the data set that a training or analysis needs."""
    setup = job.training_job.settings
    return str(setup.data.name) if isinstance(setup, Experiment) else None


def _lacking(jobs: Iterable[Job], runtime: Runtime) -> dict[str, DataError]:
    """The data sets that jobs without a record need and that are not here, each with why.

    Raises the first error where nothing could be made without them.
    """
    needed = dict[str, Job]()
    for job in jobs:
        if find_record(job, runtime) is None and (name := _data(job)) is not None:
            needed.setdefault(name, job.training_job)
    lacking = dict[str, DataError]()
    for name, run in needed.items():
        try:
            load_splits(run.settings, runtime)
        except DataError as error:
            lacking[name] = error
    if lacking and len(lacking) == len(needed):
        raise next(iter(lacking.values()))
    return lacking


def _plan(wanted: Sequence[Target], runtime: Runtime, lacking: Container[str]) -> None:
    """Say how many jobs of each row are there, how many are to run, and for how long."""
    rows = dict[str, dict[Job, float | None]]()
    for one in wanted:
        for title, jobs in one.plan().items():
            rows.setdefault(title, {}).update(jobs)
    missing = {
        title: {job: seconds for job, seconds in jobs.items() if find_record(job, runtime) is None}
        for title, jobs in rows.items()
    }
    possible = {
        title: {job: seconds for job, seconds in jobs.items() if _data(job) not in lacking}
        for title, jobs in missing.items()
    }
    costs = RuntimeEstimator(runtime)
    grid = Grid("", "there", "to run", "estimated", box=box.SIMPLE)
    for title, jobs in rows.items():
        there = len(jobs) - len(missing[title])
        some = len(possible[title]) < len(missing[title])
        cost = "no data" if some and not possible[title] else _estimate(possible[title], costs)
        grid.add_row(title, str(there), str(len(possible[title])), cost)
    everything = {job: seconds for jobs in possible.values() for job, seconds in jobs.items()}
    again = {
        run: seconds
        for job, seconds in everything.items()
        for run in job.dependencies
        if find_record(run, runtime) is not None and not checkpoint_path(run, runtime).exists()
    }
    if again:
        grid.add_row("recorded, but weights not here: train again", "", str(len(again)), _estimate(again, costs))
    _out.print(grid)
    everything |= again
    if everything:
        total = _estimate(everything, costs)
        _out.print(f"{len(everything)} jobs to run: {total} on this device; interrupted, the same command goes on\n")


def announce_retraining(analysis: Job, epoch_seconds: Sequence[float | None], runtime: Runtime) -> None:
    """Say which runs of an analysis without a record are trained first, and for how long; what is wrong is said alone.

    ``epoch_seconds`` are the configs' estimates, a run each. Raises what `jobs.validate_job` raises.
    """
    if find_record(analysis, runtime) is not None:
        return
    untrained = {
        run: seconds
        for run, seconds in zip(analysis.dependencies, epoch_seconds, strict=True)
        if not checkpoint_path(run, runtime).exists()
    }
    if untrained:  # else there is nothing to say, and the job itself is about to be validated
        validate_job(analysis, runtime)
    costs = RuntimeEstimator(runtime)
    for run, seconds in untrained.items():
        known = "recorded, but its weights are not here" if find_record(run, runtime) else "not trained yet"
        time = _estimate({run: seconds}, costs)
        console.print(f"{run.name}: {known}: trained first (time: {time})", markup=False)


def _estimate(jobs: dict[Job, float | None], costs: RuntimeEstimator) -> str:
    """About how long the jobs take, in words; nothing for none."""
    hours = [costs.hours(job, seconds) for job, seconds in jobs.items()]
    known = [h for h in hours if h is not None]
    if not known:
        return "unknown" if hours else ""
    return f"about {format_duration(sum(known))}" + (" and more" if len(known) < len(hours) else "")


def print_table(table: Table, only: Sequence[str] | None = None) -> None:
    """Print the table, or its rows whose name contains one of the texts ``only``."""
    _out.print(f"\n{table.title}\n{table.caption()}", markup=False)
    for block in table.blocks:
        frame = table.wide(block)
        grid = Grid(*frame.columns, title=block.heading, title_justify="left", box=box.SIMPLE)
        for row in frame.itertuples(index=False):
            if only is None or any(text in row[0] for text in only):
                grid.add_row(*map(escape, row))
        _out.print(grid)
    for note in table.notes:
        _out.print(note, markup=False)


def print_choice(record: Record) -> None:
    """Print a record of kind strength."""
    out = record.outcome
    images, epoch = out["examples"]["held_out"], record.settings["weights"]
    _out.print(f"\n{record.name}: accuracy in % on {images} held-out images, {epoch} epoch", soft_wrap=True)
    grid = Grid("a", "mean", "standard error", "", box=box.SIMPLE)
    for row in out["strengths"]:
        error = "" if row["standard_error"] is None else f"{100 * row['standard_error']:.2f}"
        notes = [f"{row['diverged']} diverged"] if row["diverged"] else []
        notes += ["chosen"] if row["a"] == out["chosen"] else []
        grid.add_row(f"{row['a']:g}", f"{100 * row['mean']:.2f}", error, ", ".join(notes))
    _out.print(grid)
    edge = "; it is the largest that was tried" if out["chosen"] == out["strengths"][-1]["a"] else ""
    _out.print(f"method.a={out['chosen']:g}: {out['rule']}{edge}", soft_wrap=True)
