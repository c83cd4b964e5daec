"""Which jobs run at the same time: streams, memory, image folders, and what happens when memory runs out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS
from helpers.tiny_jobs import record_of, tiny, workplace

from smoothout.analysis.options import WhichWeights
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.jobs import training_job
from smoothout.jobs.concurrency import ConcurrencyLimit, JobQueue, Slot
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import PreparedRun
from smoothout.jobs.runner import get_or_run, run_jobs
from smoothout.jobs.steps import Steps
from smoothout.results.records import Record
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine

GB = 10**9
CROWD = [tiny(seed=seed) for seed in range(4)]


class FakeGPU:
    """A CUDA device with this many bytes, whose jobs need what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.reserved, self.peak, self.made = room, 0, 0, list[object]()
        stand_ins = {
            "Stream": self.stream,
            "stream": lambda stream: nullcontext(),
            "mem_get_info": lambda device: (self.room - self.reserved, self.room),
            "memory_reserved": lambda device: self.reserved,
            "max_memory_reserved": lambda device: self.peak,
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", self.reserved),
            "empty_cache": lambda: None,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(gc, "collect", lambda: 0)  # takes most of a test's time, and there is nothing to collect

    def stream(self, device: torch.device) -> object:
        self.made.append(object())
        return self.made[-1]

    def reserve(self, more: int, peak: int = 0) -> None:
        self.reserved += more
        self.peak = max(self.peak, self.reserved, peak)


def limit_on(tmp_path: Path, device: str = "cuda", concurrent: int | None = None) -> ConcurrencyLimit:
    engine = Engine(concurrent_trainings=concurrent)
    runtime = replace(workplace(tmp_path, engine=engine), device=torch.device(device))
    return ConcurrencyLimit(runtime, runtime.concurrent_trainings)


def past_first_epoch(limit: ConcurrencyLimit, slot: Slot) -> None:
    """A tiny training has 12 updates per epoch."""
    for _ in range(12 + 1):
        limit.note_step(slot, updated=True)


def test_the_next_job_starts_after_the_last_ones_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then is it known what one needs: the last, smaller batch and the evaluation come at the epoch's end."""
    FakeGPU(monkeypatch, 80 * GB)
    limit = limit_on(tmp_path)
    slot = limit.start(CROWD[0])
    for _ in range(slot.updates_per_epoch):
        limit.note_step(slot, updated=True)
        assert not limit.has_room()
    limit.note_step(slot, updated=True)
    assert limit.has_room()


@pytest.mark.parametrize(("room", "most"), [(8, 1), (20, 1), (22, 2), (74, 7), (200, 8)])
def test_as_many_run_at_the_same_time_as_memory_holds(
    room: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training needs 10 GB while it captures and 9 from then on: another starts if more than 12 GB are free."""
    gpu = FakeGPU(monkeypatch, room * GB)
    limit = limit_on(tmp_path)
    started = 0
    while limit.has_room() and started < 20:
        slot = limit.start(tiny(seed=started))
        started += 1
        gpu.reserve(9 * GB, gpu.reserved + 10 * GB)
        past_first_epoch(limit, slot)
    assert started == most


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_image_folders_are_trained_on_alone(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGPU(monkeypatch, 80 * GB)
    config = compose_config(CONFIGS, "train", ["experiment=resnet18_imagenette"])
    folders = Job(build_experiment(config))
    assert not folders.settings.data.resident
    limit = limit_on(tmp_path, device, concurrent=4)
    assert limit.admits(folders)
    limit.start(CROWD[0])
    assert limit.admits(CROWD[1])
    assert not limit.admits(folders)
    limit.finish(CROWD[0])
    limit.start(folders)
    assert not limit.admits(CROWD[0])


def test_after_a_failure_for_memory_fewer_run_and_know_it(tmp_path: Path) -> None:
    limit = limit_on(tmp_path, "cpu", concurrent=8)
    for job in CROWD[:3]:
        assert limit.start(job).runtime.concurrent_trainings == 8
    assert limit.lower()
    assert limit.limit == 2
    limit.finish(CROWD[2])
    limit.finish(CROWD[1])
    assert limit.start(CROWD[1]).runtime.concurrent_trainings == 2
    assert limit.lower()
    assert limit.limit == 1
    assert not limit.lower(), "alone, it is an error"


def test_a_queue_gives_each_job_once_and_takes_no_more_than_it_needs() -> None:
    asked = list[int]()

    def given() -> Generator[Job]:
        for number, job in enumerate([*CROWD[:2], CROWD[0], CROWD[2]]):
            asked.append(number)
            yield job

    queue = JobQueue(given())
    assert asked == []
    assert queue.peek() is queue.peek() is CROWD[0]
    assert asked == [0]
    assert queue.pop() is CROWD[0]
    queue.put_back(CROWD[0])
    found = []
    while queue.peek() is not None:
        found.append(queue.pop())
    assert found == CROWD[:3]


# Whole jobs


def fails_beside(others: int, failed: list[Job], kept: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings run out of memory in their third update where more than ``others`` run at the same time."""
    watched, running = training_job.train, set[Job]()

    def training(run: PreparedRun, *which: WhichWeights) -> Steps[TrainingState]:
        model = torch.nn.Linear(3, 3)  # a local that the frames of the error hold
        kept.append(weakref.ref(model))
        job = run.job
        running.add(job)
        steps = watched(run, *which)
        try:
            for number in range(10**6):
                if number == 2 and len(running) > others:
                    failed.append(job)
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
                try:
                    yield next(steps)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]
        finally:
            running.discard(job)
        raise AssertionError

    monkeypatch.setattr(training_job, "train", training)


def test_a_training_that_runs_out_of_memory_next_to_others_is_made_with_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = get_or_run(CROWD[0], workplace(tmp_path / "alone")).outcome["weights"]
    failed, kept = list[Job](), list[Any]()
    fails_beside(2, failed, kept, monkeypatch)
    made = dict(run_jobs(CROWD, workplace(tmp_path, engine=Engine(concurrent_trainings=4))))
    assert all(isinstance(made[job], Record) for job in CROWD)
    record = made[CROWD[0]]
    assert isinstance(record, Record)
    assert record.outcome["weights"] == wanted
    assert 1 <= len(failed) <= 2
    assert capsys.readouterr().err.count("out of memory; trying again with at most") == len(failed)


def test_a_training_that_runs_out_of_memory_alone_fails_and_keeps_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, kept = list[Job](), list[Any]()
    fails_beside(0, failed, kept, monkeypatch)
    runtime = workplace(tmp_path, engine=Engine(concurrent_trainings=3))
    gc.disable()
    try:
        outcomes = dict(run_jobs(CROWD[:3], runtime))
        assert all(isinstance(outcome, torch.OutOfMemoryError) for outcome in outcomes.values())
        assert [model() for model in kept] == [None] * len(kept), "neither the error nor a cycle holds its frames"
    finally:
        gc.enable()
    assert len(failed) == 3 + 2, "three turns became two and then one"
    assert not any(record_of(job, runtime).exists() for job in CROWD[:3])
