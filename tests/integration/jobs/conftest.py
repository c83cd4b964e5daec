"""A place of its own for every test of jobs."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from helpers.tiny_jobs import workplace

from smoothout.jobs import outcomes, training_job
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.training.checkpoint import TrainingState


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return workplace(tmp_path)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Fills with the job of every update, in the order in which they are made."""
    made: list[Job] = []

    def watched(job: Job, runtime: Runtime) -> Generator[None, None, TrainingState]:
        steps = training_job.train_job(job, runtime)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value
            made.append(job)
            yield True

    monkeypatch.setattr(outcomes, "train_job", watched)
    return made
