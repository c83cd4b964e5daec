"""Jobs: what was trained on one data set is neither analysed nor gone on with on another of that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.common import digits, tree
from helpers.tiny_jobs import UPDATES, checkpoint_of, tiny, trained

from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.common.errors import CheckpointError, DataError
from smoothout.jobs import training_job
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.training import checkpoint


@pytest.fixture
def shuffle_labels(runtime: Runtime) -> Callable[[], None]:
    """Puts digits with their labels in another order into the data folder, and lets no process know the old ones."""

    def put() -> None:
        arrays = dict(np.load(Path(digits().name, "digits.npz")))
        arrays["y_train"] = np.random.default_rng(0).permutation(arrays["y_train"])
        Path(runtime.folders.data).mkdir(parents=True)
        np.savez(Path(runtime.folders.data, "digits.npz"), **arrays)
        training_job._load.cache_clear()

    return put


def test_an_analysis_on_other_data_than_the_trainings_is_refused(
    runtime: Runtime, shuffle_labels: Callable[[], None]
) -> None:
    job = Job(RunningStatistics(), (tiny(),))
    run = get_or_run(tiny(), runtime)
    shuffle_labels()
    before = tree(Path(runtime.folders.results).parent)
    with pytest.raises(DataError, match=rf"^data: digits in .* is not what {run.name} was trained on; .*$"):
        get_or_run(job, runtime)
    assert tree(Path(runtime.folders.results).parent) == before


def test_a_training_does_not_go_on_with_other_data(runtime: Runtime, shuffle_labels: Callable[[], None]) -> None:
    job, runtime = tiny(), replace(runtime, checkpoint_seconds=0.0)
    steps = training_job.train_job(job, runtime)
    for _ in range(UPDATES + 3):
        next(steps)
    steps.close()
    path = checkpoint_of(job, runtime)
    stopped = checkpoint.load(path, job.digest)
    assert (stopped.epoch, len(stopped.data_sha256 or "")) == (1, 64)
    shuffle_labels()
    with pytest.raises(CheckpointError, match=rf"^checkpoint: {path} has seen other data than digits in "):
        trained(job, runtime)
    stopped.data_sha256 = None  # of an earlier version, which did not say
    checkpoint.save(path, stopped, job.digest)
    assert trained(job, runtime).epoch == 2


def test_an_analysis_computes_in_float32_whatever_torch_allows(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run(*_: object) -> dict[str, object]:
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return {}

    monkeypatch.setattr(RunningStatistics, "run", run)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    get_or_run(Job(RunningStatistics(), (tiny(),)), runtime)
    assert seen == [(False, "highest")]
    assert torch.backends.cudnn.allow_tf32
