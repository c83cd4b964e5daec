"""A separate runtime for every test of jobs."""

from __future__ import annotations

import pytest

from smoothout.analysis.options import WhichWeights
from smoothout.jobs import training_job
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import PreparedRun
from smoothout.jobs.steps import Steps
from smoothout.training.checkpoint import TrainingState


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Fills with the job of every update, in the order in which they are made."""
    made: list[Job] = []

    def watched(run: PreparedRun, *which: WhichWeights) -> Steps[TrainingState]:
        steps = train(run, *which)
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                return done.value
            made.append(run.job)
            yield step

    train = training_job.train
    monkeypatch.setattr(training_job, "train", watched)
    return made
