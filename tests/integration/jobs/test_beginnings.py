"""Shorter trainings whose weights a longer one keeps on its way."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers.common import same_bits
from helpers.tiny_jobs import UPDATES, checkpoint_of, tiny, trained, workplace

from smoothout.common import interrupts
from smoothout.common.interrupts import Interrupted, defer_signals
from smoothout.jobs import training_job
from smoothout.jobs.job import Job
from smoothout.jobs.locks import weights_lock
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import NoiseScaling
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule

WHOLE = Schedule(4, (2, 3), 0.5, keep_epochs=(1, 3))
SETTINGS: list[dict[str, Any]] = [
    {},
    {"method": NoiseConfig(0.05), "optimizer": SGD(0.1, reset_every_epoch=True)},
    {"method": NoiseConfig(0.05, scaling=NoiseScaling.filter, strength_schedule=StrengthSchedule.anneal)},
    {"method": Conservative(0.1)},
]


def shorter(epochs: int, **settings: Any) -> Job:
    return tiny(schedule=replace(WHOLE, epochs=epochs, keep_epochs=()), **settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_a_training_keeps_is_what_shorter_ones_end_with(settings: dict[str, Any], tmp_path: Path) -> None:
    one, other = workplace(tmp_path / "one"), workplace(tmp_path / "other")
    trained(tiny(schedule=WHOLE, **settings), one)
    assert len(list(Path(one.folders.checkpoints).glob("*.pt"))) == 3
    for epochs in WHOLE.keep_epochs:
        run = shorter(epochs, **settings)
        kept, wanted = checkpoint.load(checkpoint_of(run, one), run.digest), trained(run, other)
        assert same_bits(kept.model, wanted.model)
        assert same_bits(kept.best, wanted.best)
        assert (kept.epoch, kept.step, kept.optimizer) == (epochs, 0, {})
        for name in set(kept.curves) - {"seconds"}:
            assert kept.curves[name] == wanted.curves[name]
        assert kept.curvature == wanted.curvature


def test_a_shorter_training_is_recorded_without_an_update(runtime: Runtime, updates: list[Job]) -> None:
    get_or_run(tiny(schedule=WHOLE), runtime)
    assert len(updates) == 4 * UPDATES
    record = get_or_run(shorter(3), runtime)
    assert len(updates) == 4 * UPDATES
    assert (record.labels["epochs"], len(record.outcome["curves"]["test_loss"])) == (3, 3)


def test_a_shorter_training_that_is_under_way_keeps_its_own_weights(runtime: Runtime) -> None:
    with weights_lock(shorter(1), runtime):
        trained(tiny(schedule=WHOLE), runtime)
    assert not checkpoint_of(shorter(1), runtime).exists()
    assert checkpoint_of(shorter(3), runtime).exists()


def test_an_interrupted_training_keeps_the_rest_when_it_resumes_and_nothing_twice(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, steps = tiny(schedule=WHOLE), count(1)

    def stop_in_the_second_epoch(now: TrainingState) -> str:
        if next(steps) == UPDATES + 3:
            interrupts.set_pending_signal(2)
        return ""

    monkeypatch.setattr(training_job, "_progress_note", stop_in_the_second_epoch)
    with pytest.raises(Interrupted), defer_signals():
        trained(job, runtime)
    monkeypatch.undo()
    first = checkpoint_of(shorter(1), runtime)
    assert first.exists()
    assert not checkpoint_of(shorter(3), runtime).exists()
    written = first.stat().st_mtime_ns
    trained(job, runtime)
    assert checkpoint_of(shorter(3), runtime).exists()
    assert first.stat().st_mtime_ns == written


def test_epochs_of_a_training_whose_noise_depends_on_its_length_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"^schedule.keep_epochs: must be empty.*depends on the training's length"):
        tiny(schedule=WHOLE, method=NoiseConfig(0.05, strength_schedule=StrengthSchedule.tanh_falling))


def test_what_a_killed_writer_left_of_a_beginning_is_removed(runtime: Runtime) -> None:
    path = checkpoint_of(shorter(1), runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f"{path.name}.part99-deadbeef")
    left.touch()
    trained(tiny(schedule=WHOLE), runtime)
    assert path.exists()
    assert not left.exists()
