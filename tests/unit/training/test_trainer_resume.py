"""The loop: trainings that are stopped and resumed end with the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.trainer_cases import METHODS, UPDATES, Splits, network, run

from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule

DIGEST = "c3" * 32


class StopError(Exception):
    """The training was stopped by the test."""


STOPS = (1, 4, 6, 11)  # in an epoch's midst and at its end


@pytest.mark.parametrize(
    ("method", "stop"),
    [*((name, STOPS[i % 4]) for i, name in enumerate(METHODS)), *(("smoothout", stop) for stop in STOPS)],
)
def test_a_training_that_was_stopped_resumes_to_the_same_last_bit(
    method: str, stop: int, tiny_split: Splits, tmp_path: Path
) -> None:
    settings = dict(METHODS[method])
    dropout = settings.pop("dropout", 0.0)
    unbroken = run(network(dropout=dropout), tiny_split, **settings)
    path, done = tmp_path / "run.pt", 0

    def after_step(now: TrainingState, frozen: Callable[[], TrainingState]) -> None:
        nonlocal done
        done += 1
        if done == stop:
            checkpoint.save(path, frozen(), DIGEST)
            raise StopError

    with pytest.raises(StopError):
        run(network(dropout=dropout), tiny_split, after_step=after_step, **settings)
    snapshot = checkpoint.load(path, DIGEST)
    assert (snapshot.epoch, snapshot.step) == ((stop - 1) // UPDATES, (stop - 1) % UPDATES + 1)
    torch.manual_seed(999)  # whatever the new process did before
    model = network(seed=77, dropout=dropout)
    torch.rand(5)
    resumed = run(model, tiny_split, resume=snapshot, **settings)
    assert same_bits(resumed.model, unbroken.model)
    assert same_bits(resumed.best, unbroken.best)
    assert same_bits(model.state_dict(), unbroken.model)
    curves, wanted = dict(resumed.curves), dict(unbroken.curves)
    assert len(curves.pop("seconds")) == len(wanted.pop("seconds")) == 3
    assert curves == wanted
    assert len(curves["train_loss"]) == 3


def test_methods_end_at_different_weights(tiny_split: Splits) -> None:
    """Without this the test above could pass with settings that do nothing."""
    ends = []
    for settings in METHODS.values():
        others = {name: value for name, value in settings.items() if name != "dropout"}
        ends.append(run(network(dropout=settings.get("dropout", 0.0)), tiny_split, **others).model["1.weight"])
    assert not any(torch.equal(ends[i], ends[j]) for i in range(len(ends)) for j in range(i))


def test_a_finished_training_is_not_trained_further(tiny_split: Splits) -> None:
    model = network()
    done = run(model, tiny_split)
    before = copy.deepcopy(done.model)
    again = run(network(seed=5), tiny_split, resume=replace(done, optimizer={}))
    assert same_bits(again.model, before)
    assert len(again.curves["train_loss"]) == 3


def test_a_training_resumes_from_the_end_of_an_epoch_with_more_epochs(tiny_split: Splits) -> None:
    """With a constant strength and learning rate, five epochs are three and two more."""
    settings: dict[str, Any] = {"optimizer": Adam(0.01, reset_every_epoch=True), "method": NoiseConfig(0.1)}
    whole = run(network(), tiny_split, **settings, schedule=Schedule(5))
    part = run(network(), tiny_split, **settings, schedule=Schedule(3))
    longer = run(network(seed=7), tiny_split, **settings, schedule=Schedule(5), resume=part)
    assert same_bits(longer.model, whole.model)
