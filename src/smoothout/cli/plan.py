"""Plan and run many jobs from the terminal.

Modules that need torch are imported by the functions that use them, so that tables are printed without it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.markup import escape
from rich.table import Table as Grid

from smoothout.cli.error_messages import JobsFailedError, format_error, report_error
from smoothout.cli.show import out
from smoothout.common.errors import ConfigError, DataError, RecordError
from smoothout.common.formatting import format_hours
from smoothout.common.progress import console
from smoothout.config.experiment import Experiment
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.locks import check_folders
from smoothout.jobs.lookup import checkpoint_path, find_record
from smoothout.jobs.runtime import Runtime

if TYPE_CHECKING:
    from smoothout.jobs.slurm import JobRunner
    from smoothout.reproduction.figure import FigurePlan
    from smoothout.reproduction.table import TablePlan


class Target(Protocol):
    """A table, a figure or a choice of strength: the jobs that it needs."""

    def jobs(self) -> list[Job]: ...  # noqa: D102
    def plan(self) -> dict[str, dict[Job, float | None]]: ...  # noqa: D102


def named_targets(table: TablePlan | None, figure: FigurePlan | None, rows: Sequence[str] | None) -> list[Target]:
    """The table and the figure that were named. Raises ConfigError for none, and for ``rows`` without a table."""
    if rows and table is None:
        raise ConfigError("rows: has no effect on a figure; must be null, or the table be named (table=table2)")
    targets: list[Target] = [target for target in (table, figure) if target]
    if not targets:
        raise ConfigError("table, figure: one of them must be named; both are none")
    return targets


def plan_and_run(
    targets: Sequence[Target], runtime: Runtime, runner: JobRunner | None = None
) -> JobsFailedError | None:
    """Print the plan and run what is missing, trainings before analyses; does nothing without ``targets``.

    Failed jobs are named at the end; only analyses of their weights are skipped. Missing data sets are reported before
    the plan, and only their jobs are skipped. A folder that cannot be written is reported once, and stops all jobs.
    Without a ``runner``, jobs run in this process. If jobs failed, returns the error to raise once results are shown.

    Raises:
        DataError: if no missing job has its data.
        ConfigError: if jobs are missing, and the machine lacks the device.
    """
    if not targets:
        return None
    from smoothout.jobs.runner import run_jobs  # noqa: PLC0415

    runner = runner or run_jobs
    unique = {job.digest: job for target in targets for job in target.jobs()}.values()
    missing = [job for job in unique if find_record(job, runtime) is None]
    local = runner is run_jobs
    if missing and local:
        runtime.device.type  # noqa: B018 -- raises ConfigError for an absent device before the plan is printed
    no_data = _without_data(missing, runtime) if local else {}
    for error in no_data.values():
        report_error(error)
    jobs = [job for job in unique if _data(job) not in no_data]
    resumes = "if interrupted, rerun the command to resume"
    stopped = print_plan(targets, runtime, no_data, note=resumes) or len(missing)
    try:
        for job in {job.kind: job for job in missing if local}.values():
            check_folders(job, runtime)
    except RecordError as error:
        return JobsFailedError(stopped, report_error(RecordError(f"{error}; this stopped {stopped} jobs")))

    # Trainings first; an analysis is skipped if one of its trainings failed.
    code, failed = 2 if no_data else 0, dict[str, str]()
    trainings, analyses = ([job for job in jobs if bool(job.dependencies) is analysis] for analysis in (False, True))
    possible = (job for job in analyses if not any(run.digest in failed for run in job.dependencies))
    for job, outcome in chain(runner(trainings, runtime), runner(possible, runtime)):
        if isinstance(outcome, Exception):  # whatever it is, the other jobs are run
            failed[job.digest] = f"{job.name}: {format_error(outcome)}"
            code = max(code, report_error(outcome, Path(runtime.folders.logs) / f"{job.name}.txt"))
    for line in failed.values():
        console.print(f"failed: {line}", markup=False)
    lost = len(failed) + len(unique) - len(jobs)
    return JobsFailedError(lost, code) if code else None


def _data(job: Job) -> str | None:
    """The name of the data set that a training or analysis needs."""
    setup = job.training_job.settings
    return str(setup.data.name) if isinstance(setup, Experiment) else None


def _without_data(missing: Iterable[Job], runtime: Runtime) -> dict[str, DataError]:
    """The data sets that ``missing`` jobs need and that are not available, each with the reason.

    Raises the first error if none is available.
    """
    from smoothout.jobs.prepared_run import load_splits  # noqa: PLC0415

    runs = {name: job.training_job for job in reversed([*missing]) if (name := _data(job)) is not None}
    errors = dict[str, DataError]()
    for name, run in runs.items():
        try:
            load_splits(run.settings, runtime)
        except DataError as error:
            errors[name] = error
    if errors and len(errors) == len(runs):
        raise next(iter(errors.values()))
    return errors


def print_plan(
    targets: Sequence[Target], runtime: Runtime, no_data: Container[str] = (), note: str = "nothing was run"
) -> int:
    """Print, by row, how many jobs have a record, how many are to run, and for how long; returns how many are to run.

    Summaries of other jobs' records, which take no time, do not count. ``note`` ends the last line.
    """
    rows = dict[str, dict[Job, float | None]]()
    for target in targets:
        for title, jobs in target.plan().items():
            rows.setdefault(title, {}).update(_with_trainings(jobs))
    missing = {title: _without_record(jobs, runtime) for title, jobs in rows.items()}
    possible = {
        title: {job: seconds for job, seconds in jobs.items() if _data(job) not in no_data}
        for title, jobs in missing.items()
    }

    costs = RuntimeEstimator(runtime)
    grid = Grid("", "recorded", "to run", "estimated", box=box.SIMPLE)
    for title, jobs in rows.items():
        recorded = len(jobs) - len(missing[title])
        all_without_data = missing[title] and not possible[title]
        cost = "no data" if all_without_data else _estimate(possible[title], costs)
        grid.add_row(escape(title), str(recorded), str(len(possible[title])), cost)

    # Analyses, and trainings that begin from others, need weights: a recorded run without them is trained again.
    to_run = {job: seconds for jobs in possible.values() for job, seconds in jobs.items()}
    again = _without_weights(to_run, runtime)
    if again:
        grid.add_row("recorded, but weights not here: train again", "", str(len(again)), _estimate(again, costs))
    out.print(grid)
    to_run |= again
    if to_run:
        total = _estimate(to_run, costs)
        out.print(f"{len(to_run)} jobs to run: {total} on this device; {note}\n")
    return len(to_run)


def _with_trainings(jobs: Mapping[Job, float | None]) -> dict[Job, float | None]:
    """The ``jobs`` and the trainings that they need, with the config's seconds per epoch."""
    needed = {run: seconds for job, seconds in jobs.items() for run in with_dependencies([job])}
    return needed | dict(jobs)


def _without_record(jobs: Mapping[Job, float | None], runtime: Runtime) -> dict[Job, float | None]:
    """Those of the ``jobs`` that have no record."""
    return {job: seconds for job, seconds in jobs.items() if find_record(job, runtime) is None}


def _without_weights(jobs: dict[Job, float | None], runtime: Runtime) -> dict[Job, float | None]:
    """The recorded runs that ``jobs`` need and whose checkpoint is not here, with the config's seconds per epoch."""
    runs = {run: seconds for job, seconds in jobs.items() for run in job.inputs}
    return {
        run: seconds
        for run, seconds in runs.items()
        if find_record(run, runtime) is not None and not checkpoint_path(run, runtime).exists()
    }


def print_choices(searches: Sequence[Target], runtime: Runtime) -> None:
    """Print the plan of the choices of strengths without a record, and that methods wait for them."""
    searches = [search for search in searches if any(find_record(job, runtime) is None for job in search.jobs())]
    if searches:
        print_plan(searches, runtime)
        out.print("Methods that take the strength that these choose are planned once it is chosen.")


def print_commands(plan: TablePlan, runtime: Runtime) -> None:
    """Print, by row, the commands that make the missing records of each cell, with estimated hours.

    Choices of strengths that methods wait for are planned first. Trainings without a command, because the table shows
    analyses only, and recorded ones whose weights are not here count too: the first analysis of each trains it.
    """
    print_choices(plan.unique_searches, runtime)
    table, rows = plan.render(runtime), dict[str, dict[str, float | None]]()
    for cell in table.cells:
        if cell.command and len(cell.records) < len(table.seeds):
            rows.setdefault(cell.row, {})[cell.command] = cell.hours
    for row, commands in rows.items():
        out.print(f"\n{row}", markup=False)
        for command, hours in commands.items():
            out.print(f"  {command}  # {_hours([hours])}", markup=False, soft_wrap=True)

    first = _hours_of_first_trainings(plan, runtime)
    everything = {command: hours for commands in rows.values() for command, hours in commands.items()}
    seeds = f"seed(s) {', '.join(map(str, table.seeds))}"
    total = f"nothing is missing for {seeds}"
    if rows:
        before = f"{len(first)} run(s) whose weights are not here ({_hours(first)})"
        total = f"{len(everything)} commands for {seeds}{f', which first train {before}' if first else ''}"
        total += f": {_hours([*everything.values(), *first])} on this device"
    out.print(f"\n{table.title}: {total}; nothing was run", markup=False, soft_wrap=True)


def _hours_of_first_trainings(plan: TablePlan, runtime: Runtime) -> list[float | None]:
    """Hours of each training that missing analyses start with: it is not in the table, or its weights are not here."""
    jobs = {job: seconds for of_row in plan.plan().values() for job, seconds in of_row.items()}
    missing = _without_record(_with_trainings(jobs), runtime)
    first = {job: seconds for job, seconds in missing.items() if job not in jobs} | _without_weights(missing, runtime)
    costs = RuntimeEstimator(runtime)
    return [costs.hours(run, seconds) for run, seconds in first.items()]


def announce_retraining(analysis: Job, epoch_seconds: Sequence[float | None], runtime: Runtime) -> None:
    """List the runs that must be trained before an analysis without a record, with estimated times.

    ``epoch_seconds`` are the configs' estimates, one per run. Raises what `validate_job` raises.
    """
    from smoothout.jobs.prepared_run import has_weights  # noqa: PLC0415
    from smoothout.jobs.runner import validate_job  # noqa: PLC0415

    if find_record(analysis, runtime) is not None:
        return
    costs, which = RuntimeEstimator(runtime), analysis.settings.checkpoint
    for run, seconds in zip(validate_job(analysis, runtime), epoch_seconds, strict=True):
        record = find_record(run.job, runtime)
        if has_weights(run.state, which, run.experiment, record):
            continue
        reason = "recorded, but its weights are not here" if record else "not trained yet"
        hours = costs.hours(run.job, seconds)
        if run.state:
            epochs = run.experiment.schedule.epochs
            reason = f"interrupted after {run.state.epoch} of {epochs} epochs"
            hours = hours and hours * (1 - run.state.epoch / epochs)
        console.print(f"{run.job.name}: {reason}: trained first (time: {_hours([hours])})", markup=False)


def _estimate(jobs: dict[Job, float | None], costs: RuntimeEstimator) -> str:
    return _hours([costs.hours(job, seconds) for job, seconds in jobs.items()]) if jobs else ""


def _hours(hours: Iterable[float | None]) -> str:
    """The total of ``hours`` in words; unknown ones are named as such."""
    return format_hours(hours) or "unknown time"
