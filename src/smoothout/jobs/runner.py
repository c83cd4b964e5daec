"""One job, or several in turn: find its record, or make it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from torch import nn

from smoothout.common import interrupts, pass_cache, progress
from smoothout.common.machine_errors import is_out_of_memory
from smoothout.jobs.concurrency import ConcurrencyLimit, JobQueue, TrainingTurn, forget_frames
from smoothout.jobs.job import Job
from smoothout.jobs.locks import JobSteps, acquire
from smoothout.jobs.lookup import find_record
from smoothout.jobs.outcomes import (
    analysis_outcome,
    measurement_outcome,
    pass_cache_path,
    shared_labels,
    trained_network,
    training_outcome,
)
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.training_job import validate_analysis, validate_training
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record

WAIT_SECONDS = 0.1  # between two looks at locks that others hold


def get_or_run(job: Job, runtime: Runtime) -> Record:
    """The job's record; what is missing is made, inputs first, and what is there is never made twice."""
    [(_, outcome)] = run_jobs([job], runtime.alone())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_jobs(jobs: Iterable[Job], runtime: Runtime) -> Iterator[tuple[Job, Record | Exception]]:
    """The records of ``jobs`` as they come, each made as ``get_or_run`` makes it; or why a job failed.

    As many trainings as the place's engine says, and as memory holds, take turns, update by update, each on a CUDA
    stream of its own: small networks leave most of a GPU idle. One that runs out of memory beside others is put back,
    and fewer run at the same time. When they are asked to stop, every one of them leaves its checkpoint behind.
    """
    waiting, turns, active = (
        JobQueue(jobs),
        ConcurrencyLimit(runtime, runtime.concurrent_trainings),
        dict[Job, tuple[JobSteps, TrainingTurn]](),
    )
    stopped: KeyboardInterrupt | None = None
    while True:
        while not stopped and turns.have_room() and (first := waiting.first()) is not None and turns.admits(first):
            turn, here = turns.begin(waiting.take())
            active[first] = _steps(first, here), turn
        if not active:
            break
        worked = False
        for job, (making, turn) in list(active.items()):
            outcome: Record | Exception | None = None
            try:
                with turn.entered():
                    updated = next(making)
                turns.step(turn, worked=updated)
                worked |= updated
                continue
            except StopIteration as done:
                outcome = done.value
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
                if not interrupts.pending_signal():  # nobody told the others: they go on from their last checkpoints
                    active.clear()
                    break
            except Exception as error:
                forget_frames(error)
                outcome = error
            del active[job], making
            if is_out_of_memory(outcome) and turns.reduce():
                waiting.put_back(job)
                progress.console.print(f"{job.name}: no memory for it; again with at most {turns.most} at a time")
                outcome = None
            turns.end(job)
            worked = True
            if outcome is not None:
                yield job, outcome
        if active and not worked:
            time.sleep(WAIT_SECONDS)
    if stopped:
        raise stopped


def validate_job(job: Job, runtime: Runtime) -> None:
    """Find what is wrong with a training, or with an analysis and its runs, before anything is written or trained.

    Raises SettingsError, DataError or CheckpointError.
    """
    validate_analysis(job)
    for one in job.dependencies or (job,):
        validate_training(one, runtime)


def _steps(job: Job, runtime: Runtime) -> JobSteps:
    record = find_record(job, runtime)
    if record is not None:
        return record
    summary = hasattr(job.settings, "from_records")  # of the input records alone
    of_machine = hasattr(job.settings, "measure")  # neither a training nor of one
    if not (summary or of_machine):
        validate_job(job, runtime)
    inputs = []
    for one in job.dependencies:
        inputs.append((yield from _steps(one, runtime)))
    with (yield from acquire(runtime.records.lock(job.kind, job.digest))):
        record = find_record(job, runtime)
        if record is not None:
            return record
        started = time.perf_counter()
        if summary:
            outcome = job.settings.from_records(inputs)
        elif of_machine:
            outcome = measurement_outcome(job, runtime)
        else:
            outcome = yield from analysis_outcome(job, inputs, runtime) if inputs else training_outcome(job, runtime)
        record = Record(
            kind=job.kind,
            name=job.name,
            digest=job.digest,
            identity=job.identity,
            settings=canonical_settings(job.settings),
            labels=shared_labels([one.labels for one in inputs] or [job.settings.labels]),
            inputs=[one.name for one in inputs],
            outcome={"wall_seconds": time.perf_counter() - started, **outcome},
            environment=runtime.environment(),
        )
        written = runtime.records.write(record)
        pass_cache.clear_pass_cache(pass_cache_path(job, runtime))
        return written


def load_network(job: Job, which: str, runtime: Runtime) -> nn.Module:
    """The same of a run whose record is there, or is made first. Raises what `get_or_run` raises."""
    get_or_run(job, runtime)
    steps = trained_network(job, which, runtime)
    while True:
        try:
            if not next(steps):
                time.sleep(WAIT_SECONDS)
        except StopIteration as done:
            model: nn.Module = done.value[0]
            return model
