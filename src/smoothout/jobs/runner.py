"""Find or make the records of jobs: one job, or several that take turns on the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from smoothout.analysis.options import WhichWeights
from smoothout.common import interrupts, pass_cache, progress
from smoothout.common.errors import config_errors
from smoothout.common.job_settings import MeasurementSettings, SummarySettings
from smoothout.common.machine_errors import is_out_of_memory
from smoothout.jobs.analysis_job import analysis_outcome, pass_cache_path
from smoothout.jobs.concurrency import ConcurrencyLimit, JobQueue, Slot, clear_frames
from smoothout.jobs.job import Job
from smoothout.jobs.locks import acquire
from smoothout.jobs.lookup import checkpoint_path, find_record
from smoothout.jobs.prepared_run import (
    PreparedRun,
    check_analysis,
    has_weights,
    load_state,
    model_outline,
    network_of,
    prepare_run,
)
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.steps import WAIT_SECONDS, Step, Steps, run_to_end
from smoothout.jobs.training_job import summarize, train_locked
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record


def get_or_run(job: Job, runtime: Runtime) -> Record:
    """The job's record; if it is missing, run the dependencies and the job. No record is computed twice."""
    [(_, outcome)] = run_jobs([job], runtime.limited_to(1))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def load_network(job: Job, which: WhichWeights | str, runtime: Runtime) -> nn.Module:
    """A run's network with its ``best`` or ``last`` weights, trained if necessary. Raises the errors of `get_or_run`.

    Needs no data if the run has a record, and a checkpoint with these weights.
    """
    which, record = WhichWeights(which), get_or_run(job, runtime)
    state, _ = load_state(job, checkpoint_path(job, runtime), model_outline(job.settings), runtime)
    if not has_weights(state, which, job.settings, record):
        state = run_to_end(train_locked(prepare_run(job, runtime), which))
    return network_of(job.settings, runtime, state, which)


def run_jobs(jobs: Iterable[Job], runtime: Runtime) -> Iterator[tuple[Job, Record | Exception]]:
    """Yield each job with its record, found or made as by `get_or_run`, or with its exception.

    Small networks leave most of a GPU idle, so several trainings take turns, update by update, each on its own CUDA
    stream: as many as the runtime's engine and the memory allow. A training that runs out of memory next to others is
    repeated, and fewer run at the same time from then on. On a stop signal, every training saves a checkpoint.
    """
    return _Scheduler(jobs, runtime).outcomes()


class _Scheduler:
    """Lets jobs take turns, see `run_jobs`: start jobs while there is room, then give each running job one step."""

    def __init__(self, jobs: Iterable[Job], runtime: Runtime) -> None:
        self._queue, self._limit = JobQueue(jobs), ConcurrencyLimit(runtime, runtime.concurrent_trainings)
        self._running = dict[Job, tuple[Steps[Record], Slot]]()
        self._interrupt: KeyboardInterrupt | None = None

    def outcomes(self) -> Iterator[tuple[Job, Record | Exception]]:
        """The outcome of each job as it ends. Raises KeyboardInterrupt once every job has stopped because of it."""
        while self._start_jobs():
            idle = True
            for job in list(self._running):
                result = self._advance(job)
                idle &= result is Step.waiting
                if isinstance(result, Record | Exception):
                    yield job, result
                if not self._running:
                    break
            if idle:
                time.sleep(WAIT_SECONDS)  # every job waits for another process
        if self._interrupt:
            raise self._interrupt

    def _start_jobs(self) -> bool:
        """Start jobs from the queue while there is room, none after an interrupt; returns whether any job runs."""
        while not self._interrupt and self._limit.has_room():
            job = self._queue.peek()
            if job is None or not self._limit.admits(job):
                break
            slot = self._limit.start(self._queue.pop())
            self._running[job] = _find_or_make(job, slot.runtime), slot
        return bool(self._running)

    def _advance(self, job: Job) -> Step | Record | Exception | None:
        """Advance ``job`` by one step; returns the step or the outcome, None if the job stopped or was put back."""
        steps, slot = self._running[job]
        outcome: Record | Exception | None = None
        try:
            with torch.cuda.stream(slot.stream):  # does nothing for None
                step = next(steps)
        except StopIteration as done:
            outcome = done.value
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            if not interrupts.pending_signal():  # Ctrl-C outside the programs: other jobs cannot save and stop
                self._running.clear()
                return None
        except Exception as error:
            outcome = clear_frames(error)
        else:
            self._limit.note_step(slot, updated=step is Step.updated)
            return step
        # No reference to the job's tensors may remain when its slot is freed.
        del self._running[job], steps
        if is_out_of_memory(outcome) and self._limit.lower():
            self._queue.put_back(job)
            limit = f"at most {self._limit.limit} training(s) at a time"
            progress.console.print(f"{job.name}: out of memory; trying again with {limit}")
            outcome = None
        self._limit.finish(job)
        return outcome


def validate_job(job: Job, runtime: Runtime) -> list[PreparedRun]:
    """Check a training, or an analysis and its runs, before anything is written or trained.

    Returns the prepared training, or runs of the analysis. Raises ConfigError, DataError or CheckpointError.
    """
    runs = job.dependencies or (job,)
    outlines = [model_outline(run.settings) for run in runs]
    check_analysis(job, outlines)
    return [prepare_run(run, runtime, outline) for run, outline in zip(runs, outlines, strict=True)]


def _find_or_make(job: Job, runtime: Runtime, prepared: PreparedRun | None = None) -> Steps[Record]:
    """The job's record, found or made; ``prepared`` is the training if an analysis has prepared it."""
    record = find_record(job, runtime)
    if record is not None:
        return record

    # 1. Prepare: check everything before anything is written.
    runs = [prepared] if prepared else []
    if not runs and not isinstance(job.settings, SummarySettings | MeasurementSettings):
        runs = validate_job(job, runtime)

    # 2. Find or make the records of the input runs.
    of_inputs = runs if job.dependencies else [run.source for run in runs]
    inputs = []
    for number, run in enumerate(job.inputs):
        inputs.append((yield from _find_or_make(run, runtime, of_inputs[number] if of_inputs else None)))

    # 3. One process makes the record; waiting processes find it.
    with (yield from acquire(runtime.records.lock(job.kind, job.digest))):
        record = find_record(job, runtime)
        if record is not None:
            return record
        started = time.perf_counter()
        outcome = yield from _outcome(job, inputs, runs, runtime)
        record = Record(
            kind=job.kind,
            name=job.name,
            digest=job.digest,
            identity=job.identity,
            settings=canonical_settings(job.settings),
            labels=_shared_labels([record.labels for record in inputs]) if job.dependencies else job.settings.labels,
            inputs=[record.name for record in inputs],
            outcome={"wall_seconds": time.perf_counter() - started, **outcome},
            environment=runtime.environment(),
        )
        written = runtime.records.write(record)
        pass_cache.clear_pass_cache(pass_cache_path(job, runtime))
        return written


def _outcome(job: Job, inputs: list[Record], runs: list[PreparedRun], runtime: Runtime) -> Steps[dict[str, Any]]:
    """Run the job: a summary, a measurement, an analysis or a training."""
    if isinstance(job.settings, SummarySettings):
        outcome = job.settings.from_records(inputs)
    elif isinstance(job.settings, MeasurementSettings):
        with config_errors():
            outcome = job.settings.measure(runtime.device)
    elif job.dependencies:
        outcome = yield from analysis_outcome(job, inputs, runs)
    else:
        run = runs.pop()
        outcome = yield from summarize(run, (yield from train_locked(run)))
    return outcome


def _shared_labels(labels: list[dict[str, Any]]) -> dict[str, Any]:
    """The entries that all of ``labels`` have in common."""
    first, *others = labels
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
