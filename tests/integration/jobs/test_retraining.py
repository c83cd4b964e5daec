"""A recorded run whose weights are missing is trained again as far as its weights are needed."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from helpers.common import same_bits
from helpers.tiny_jobs import UPDATES, checkpoint_of, tiny, trained, workplace

from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.options import WhichWeights
from smoothout.config.experiment import InitFrom
from smoothout.jobs import prepared_run
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run, load_network
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.training_job import train_locked
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.schedule import Schedule

RUN = tiny(schedule=Schedule(4, (2,), 100.0))  # learning rates of 1 from the third epoch on make it worse
BEST = 2  # epochs until the best weights


def curve(which: WhichWeights = WhichWeights.best, seed: int = 0) -> Job:
    return Job(NoiseCurve(strengths=(0.0, 0.1), draws=1, examples=50, checkpoint=which, seed=seed), (RUN,))


@pytest.fixture
def whole(runtime: Runtime) -> TrainingState:
    """The end of the training, which is recorded; its checkpoint is gone."""
    record = get_or_run(RUN, runtime)
    assert record.outcome["best"]["epoch"] == BEST - 1
    path = checkpoint_of(RUN, runtime)
    state = checkpoint.load(path, RUN.digest)
    path.unlink()
    return state


def left(runtime: Runtime) -> TrainingState:
    return checkpoint.load(checkpoint_of(RUN, runtime), RUN.digest)


def test_its_best_weights_take_the_epochs_until_the_best(
    runtime: Runtime, whole: TrainingState, updates: list[Job]
) -> None:
    record = get_or_run(curve(), runtime)
    assert len(updates) == BEST * UPDATES
    assert record.outcome["weights"] == [get_or_run(RUN, runtime).outcome["weights"]["best"]]
    assert "retrained" not in record.outcome
    assert same_bits(left(runtime).best, whole.best)

    # They are here now, for other analyses, for trainings that begin with them, and without data.
    get_or_run(curve(seed=1), runtime)
    get_or_run(tiny(init_from=InitFrom(RUN.settings, WhichWeights.best)), runtime)
    assert updates.count(RUN) == BEST * UPDATES


def test_they_are_loaded_without_data(runtime: Runtime, whole: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    load_network(RUN, "best", runtime)
    assert left(runtime).epoch == BEST
    monkeypatch.setattr(prepared_run, "load_splits", None)
    assert same_bits(load_network(RUN, "best", runtime).state_dict(), whole.best)


def test_its_last_weights_take_the_epochs_that_are_missing_and_have_the_same_bits(
    runtime: Runtime, whole: TrainingState, updates: list[Job]
) -> None:
    get_or_run(curve(), runtime)
    updates.clear()
    get_or_run(curve(WhichWeights.last), runtime)
    assert len(updates) == (4 - BEST) * UPDATES
    assert same_bits(left(runtime).model, whole.model)
    assert left(runtime).curves["test_loss"] == whole.curves["test_loss"]
    assert left(runtime).optimizer == {}


def test_a_run_without_a_record_is_trained_to_its_end(runtime: Runtime, updates: list[Job]) -> None:
    get_or_run(curve(), runtime)
    assert len(updates) == 4 * UPDATES


def test_one_that_rounds_otherwise_is_trained_to_its_end(
    runtime: Runtime, whole: TrainingState, updates: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_run, "weights_digest", lambda weights: "of another processor")
    assert same_bits(load_network(RUN, "best", runtime).state_dict(), whole.best)
    assert len(updates) == 4 * UPDATES
    assert same_bits(left(runtime).model, whole.model)


@pytest.mark.parametrize("made", [UPDATES + 5, BEST * UPDATES + 1, 3 * UPDATES])
def test_one_that_was_interrupted_before_or_after_its_best_epoch_resumes(
    runtime: Runtime, whole: TrainingState, updates: list[Job], made: int
) -> None:
    saving = replace(runtime, checkpoint_seconds=-1.0)
    steps = train_locked(prepared_run.prepare_run(RUN, saving))
    assert len(list(islice(steps, made))) == made
    steps.close()
    updates.clear()
    assert same_bits(load_network(RUN, "best", runtime).state_dict(), whole.best)
    assert len(updates) == max(0, BEST * UPDATES - made)


def test_the_end_of_the_training_is_kept_where_it_is_here(runtime: Runtime, updates: list[Job], tmp_path: Path) -> None:
    get_or_run(RUN, runtime)
    updates.clear()
    get_or_run(curve(), runtime)
    assert updates == []
    assert same_bits(left(runtime).model, trained(RUN, workplace(tmp_path / "other")).model)
