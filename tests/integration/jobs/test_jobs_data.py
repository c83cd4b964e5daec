"""Jobs: data and checkpoints are loaded once; other data under the same name is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import digits, tree
from helpers.tiny_jobs import UPDATES, checkpoint_of, record_of, tiny, trained

from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.common.errors import CheckpointError, DataError
from smoothout.jobs import prepared_run, runner, training_job
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import prepare_run
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
        prepared_run._load.cache_clear()

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


def test_a_training_does_not_resume_with_other_data(runtime: Runtime, shuffle_labels: Callable[[], None]) -> None:
    job, runtime = tiny(), replace(runtime, checkpoint_seconds=0.0)
    steps = training_job.train(prepare_run(job, runtime))
    for _ in range(UPDATES + 3):
        next(steps)
    steps.close()
    path = checkpoint_of(job, runtime)
    stopped = checkpoint.load(path, job.digest)
    assert (stopped.epoch, len(stopped.data_sha256 or "")) == (1, 64)
    shuffle_labels()
    with pytest.raises(CheckpointError, match=rf"^checkpoint: {path} was trained on other data than digits in "):
        trained(job, runtime)
    stopped.data_sha256 = None  # of an earlier version, which did not say
    checkpoint.save(path, stopped, job.digest)
    assert trained(job, runtime).epoch == 2


def test_a_training_whose_record_was_lost_is_not_recorded_with_other_data(
    runtime: Runtime, shuffle_labels: Callable[[], None]
) -> None:
    get_or_run(tiny(), runtime)
    record_of(tiny(), runtime).unlink()
    shuffle_labels()
    with pytest.raises(CheckpointError, match="was trained on other data"):
        get_or_run(tiny(), runtime)
    assert not record_of(tiny(), runtime).exists()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often a checkpoint or a data set is loaded."""
    counts = Counter[str]()

    def counted(module: Any, name: str) -> None:
        load = getattr(module, name)

        def count_and_load(*arguments: Any) -> Any:
            counts[name] += 1
            return load(*arguments)

        monkeypatch.setattr(module, name, count_and_load)

    counted(checkpoint, "load")
    counted(prepared_run, "load_splits")
    return counts


def test_a_run_loads_its_checkpoint_and_its_data_once(runtime: Runtime, loads: Counter[str]) -> None:
    train = tiny()
    steps = runner._find_or_make(train, replace(runtime, checkpoint_seconds=0.0))
    for _ in range(UPDATES + 3):
        next(steps)
    steps.close()
    assert loads == {"load_splits": 1}, "there was no checkpoint"
    for job, name in ((train, "resumed"), (Job(NoiseCurve(strengths=(0.0, 0.1), examples=20), (train,)), "analyzed")):
        loads.clear()
        get_or_run(job, runtime)
        assert loads == {"load_splits": 1, "load": 1}, name
    loads.clear()
    get_or_run(Job(RunningStatistics(), (tiny(seed=1),)), runtime)
    assert loads == {"load_splits": 1, "load": 1}, "an analysis reads what the training wrote"


def test_a_checkpoint_that_another_process_writes_meanwhile_is_read_again(runtime: Runtime) -> None:
    run = prepare_run(tiny(), runtime)
    assert run.state is None
    assert run.refreshed() is run
    trained(tiny(), runtime)
    assert run.refreshed().is_done
    assert not run.is_done


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
