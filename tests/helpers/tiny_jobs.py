"""Trainings of less than a tenth of a second, and where their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smoothout.config.experiment import Experiment
from smoothout.data.datasets import DatasetName
from smoothout.data.image_arrays import ImageArrays
from smoothout.jobs import training_job
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import prepare_run
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.jobs.steps import run_to_end
from smoothout.models.mlp import MLP
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule

DIGITS = ImageArrays(DatasetName.digits, (0.5,), (0.5,))
UPDATES = 12  # an epoch of 1438 digits in batches of 128


def trained(job: Job, runtime: Runtime) -> TrainingState:
    """Train to the end, without a record."""
    return run_to_end(training_job.train(prepare_run(job, runtime)))


def tiny(**changes: Any) -> Job:
    """A training of less than a tenth of a second."""
    settings: dict[str, Any] = {
        "model": MLP(16, 2, "tiny"),
        "data": DIGITS,
        "optimizer": Adam(lr=0.01),
        "schedule": Schedule(2),
        "batch": Batch(128),
    }
    return Job(Experiment(**{**settings, **changes}))


def workplace(folder: Path, **changes: Any) -> Runtime:
    folders = Folders(*(str(folder / name) for name in ("data", "results", "checkpoints", "logs")))
    return Runtime(folders, torch.device("cpu"), **{"download": False, **changes})


def checkpoint_of(job: Job, runtime: Runtime) -> Path:
    return Path(runtime.folders.checkpoints) / f"{job.name}.pt"


def record_of(job: Job, runtime: Runtime) -> Path:
    return Path(runtime.folders.results) / "train" / f"{job.name}.json"
