"""Jobs: trainings that take turns end with the bits of each alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_jobs import UPDATES, checkpoint_of, record_of, tiny, workplace
from torch import nn

from smoothout.analysis.options import WhichWeights
from smoothout.common import interrupts, progress
from smoothout.common.errors import ConfigError
from smoothout.jobs import locks, training_job
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import PreparedRun
from smoothout.jobs.runner import get_or_run, run_jobs
from smoothout.jobs.steps import Steps
from smoothout.models.mlp import MLP
from smoothout.nn.options import NoiseDistribution
from smoothout.results.records import Record
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule


@dataclass(frozen=True)
class Dropping(MLP):
    """A network whose dropout draws from torch's one global generator, which trainings in turn share."""

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        *layers, last = super().build(shape, classes)
        return nn.Sequential(*layers, nn.Dropout(0.5), last)


CROWD = [
    tiny(method=NoiseConfig(a=0.05), model=Dropping(16, 2)),
    tiny(batch=Batch(300), schedule=Schedule(1)),  # 5 updates, the others have 24
    tiny(
        optimizer=SGD(lr=0.1),
        schedule=Schedule(2, milestones=(1,)),
        method=NoiseConfig(a=0.05, distribution=NoiseDistribution.gaussian),
    ),
    tiny(model=Dropping(16, 2), batch=Batch(128, ghost=32), seed=1),
    tiny(optimizer=Adam(lr=0.01, reset_every_epoch=True), method=NoiseConfig(a=0.05, copies=2)),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Job, Record]:
    """The outcome of each training when nothing else is trained at the same time."""
    return {job: get_or_run(job, workplace(tmp_path_factory.mktemp("alone"))) for job in CROWD}


def lasting(record: Record) -> dict[str, Any]:
    """An outcome without its times and machines."""
    measured = {"wall_seconds", "train_seconds", "peak_memory", "machines"}
    out = {name: value for name, value in record.outcome.items() if name not in measured}
    return {**out, "curves": {name: values for name, values in out["curves"].items() if name != "seconds"}}


def most_at_once(updates: list[Job]) -> int:
    """The largest number of trainings that were begun and not yet ended."""
    spans = [(updates.index(job), len(updates) - updates[::-1].index(job)) for job in set(updates)]
    return max(sum(first <= now < last for first, last in spans) for now in range(len(updates)))


def noted(wanted: list[Job], asked: list[Job]) -> Iterator[Job]:
    """The jobs one by one; each stands in ``asked`` as soon as somebody wants it."""
    for job in wanted:
        asked.append(job)
        yield job


@pytest.mark.parametrize(("turns", "most"), [(None, 1), (3, 3)])
def test_trainings_that_take_turns_end_with_the_bits_of_each_alone(
    tmp_path: Path, alone: dict[Job, Record], updates: list[Job], turns: int | None, most: int
) -> None:
    made = dict(run_jobs(CROWD, workplace(tmp_path, engine=Engine(concurrent_trainings=turns))))
    assert made.keys() == alone.keys()
    for job, record in made.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert most_at_once(updates) == most
    assert [updates.count(job) for job in CROWD] == [24, 5, 24, 24, 24]


def test_trainings_take_turns_update_by_update_and_the_next_begins_when_one_ends(
    tmp_path: Path, updates: list[Job]
) -> None:
    made = [job for job, _ in run_jobs(CROWD, workplace(tmp_path, engine=Engine(concurrent_trainings=3)))]
    first, short, third, fourth, fifth = CROWD
    assert updates[:15] == [first, short, third] * 5
    assert updates[15:20] == [first, third, first, third, fourth]
    assert made == [short, first, third, fourth, fifth]


def test_an_error_in_one_training_sinks_no_other(
    tmp_path: Path, alone: dict[Job, Record], updates: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible, failing = tiny(batch=Batch(1439)), CROWD[2]
    watched = training_job.train

    def training(run: PreparedRun, *which: WhichWeights) -> Steps[TrainingState]:
        steps = watched(run, *which)
        if run.job is not failing:
            return (yield from steps)
        for _ in range(7):
            yield next(steps)
        raise RuntimeError("the network hums")

    runtime = workplace(tmp_path, engine=Engine(concurrent_trainings=3))
    with monkeypatch.context() as patch:
        patch.setattr(training_job, "train", training)
        outcomes = list(run_jobs([impossible, *CROWD], runtime))
    made = dict(outcomes)
    assert len(outcomes) == len(made) == 6
    assert isinstance(made.pop(impossible), ConfigError)
    error = made.pop(failing)
    assert isinstance(error, RuntimeError)
    assert str(error) == "the network hums"
    assert updates.count(failing) == 7
    for job, record in made.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert not record_of(failing, runtime).exists()
    assert lasting(get_or_run(failing, runtime)) == lasting(alone[failing]), (
        "it can be made once what was wrong is put right"
    )


def test_a_request_to_stop_leaves_a_checkpoint_of_every_training_under_way_and_they_resume_to_the_same_bits(
    tmp_path: Path, alone: dict[Job, Record], monkeypatch: pytest.MonkeyPatch, trainings: list[TrainingState | None]
) -> None:
    runtime, pending, asked = workplace(tmp_path, engine=Engine(concurrent_trainings=3)), list[int](), list[Job]()
    monkeypatch.setattr(interrupts, "_pending", pending)
    first, short, third, fourth, fifth = CROWD
    came: dict[Job, Record | Exception] = {}
    step, steps = progress.Bar.step, list[int]()

    def step_and_interrupt(bar: progress.Bar, note: str | None = None) -> None:
        step(bar, note)
        steps.append(1)
        if len(steps) == 22:
            pending.append(2)

    monkeypatch.setattr(progress.Bar, "step", step_and_interrupt)
    with pytest.raises(interrupts.Interrupted, match="by SIGINT; run the same command to resume"):
        came.update(run_jobs(noted(CROWD, asked), runtime))
    assert list(came) == [short], "what was done before stays"
    assert asked == [first, short, third, fourth], "nothing new is begun"
    left = {job: checkpoint.load(checkpoint_of(job, runtime), job.digest) for job in (first, third, fourth)}
    assert [now.epoch * UPDATES + now.step for now in left.values()] == [9, 8, 2]
    assert len(steps) == 5 + 9 + 8 + 2, "the third was asked within its update, the others stop after their next one"
    assert not checkpoint_of(fifth, runtime).exists()
    assert not any(record_of(job, runtime).exists() for job in (first, third, fourth, fifth))
    pending.clear()
    trainings.clear()
    came |= run_jobs(CROWD, runtime)
    assert [snapshot is not None for snapshot in trainings] == [True, True, True, False]
    for job, record in came.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert came.keys() == alone.keys()


def test_a_job_given_twice_is_made_once(tmp_path: Path, trainings: list[TrainingState | None]) -> None:
    [(job, outcome)] = run_jobs([tiny(), tiny()], workplace(tmp_path, engine=Engine(concurrent_trainings=2)))
    assert job == tiny()
    assert isinstance(outcome, Record)
    assert len(trainings) == 1


def test_a_job_that_another_process_makes_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.0)
    runtime = workplace(tmp_path, engine=Engine(concurrent_trainings=2))
    order = []
    lock = runtime.records.lock("train", tiny().digest)
    lock.acquire()
    for job, outcome in run_jobs([tiny(), tiny(seed=1), tiny(seed=2)], runtime):
        assert isinstance(outcome, Record)
        order.append(job.settings.seed)
        if len(order) == 2:
            lock.release()
    assert order == [1, 2, 0]
    assert capsys.readouterr().err.count(f"waiting for another process or job, which holds {lock.lock_file}") == 1
