"""The loop: its order of examples, the same training written out by hand, and what is kept on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from helpers.common import same_bits
from helpers.trainer_cases import ANOTHER, EXAMPLES, METHODS, SIZE, UPDATES, Another, Splits, network, run
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.common.rng import derive_seed, make_generator
from smoothout.data import split as split_module
from smoothout.data.split import AugmentedExamples, Split
from smoothout.nn.copies import SmoothOutCopies
from smoothout.nn.evaluation import EvalResult, evaluate
from smoothout.nn.options import NoiseScaling
from smoothout.nn.perturbation import SmoothOut
from smoothout.training import trainer
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer, StrengthSchedule
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule

# Order of examples


def order(tiny_split: Splits, **changes: Any) -> list[list[int]]:
    """The rows that a training asked for, in order."""
    asked = []

    class Watched(AugmentedExamples):
        def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(rows.tolist())
            return super().gather(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "AugmentedExamples", Watched)
        run(network(dropout=changes.pop("dropout", 0.0)), tiny_split, **changes)
    return asked


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own(tiny_split: Splits) -> None:
    rows = order(tiny_split)
    assert [len(batch) for batch in rows] == [6, 6, 6, 4] * 3
    epochs = [sum(rows[i : i + UPDATES], []) for i in (0, 4, 8)]  # noqa: RUF017
    assert all(sorted(epoch) == list(range(EXAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_every_method_sees_the_same_examples_in_the_same_order_for_the_same_seed(tiny_split: Splits) -> None:
    wanted = order(tiny_split)
    for name, settings in METHODS.items():
        rows = order(tiny_split, **settings)
        own = rows[::2] if isinstance(settings.get("method"), MixedRWP) else rows  # others follow each ghost batch
        assert sum(own, []) == sum(wanted, []), name  # noqa: RUF017


@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d])
def test_dropout_of_every_kind_draws_from_the_trainings_seed(kind: type[nn.Module], tiny_split: Splits) -> None:
    ends = []
    for before in (1, 2):
        model = network()
        model[4] = kind(0.5)
        torch.manual_seed(before)
        ends.append(run(model, tiny_split).model)
    assert same_bits(*ends)


def test_randomness_that_no_seed_reaches_is_refused(tiny_split: Splits) -> None:
    model = network()
    model[4] = type("Functional", (nn.Module,), {"forward": lambda self, x: F.dropout(x, 0.5)})()
    with pytest.raises(ValueError, match=r"^model: draws from torch's global generator outside torch\.nn\.Dropout"):
        run(model, tiny_split)


def test_ghost_batches_are_cut_from_each_batch_in_order(tiny_split: Splits) -> None:
    rows = order(tiny_split, batch=Batch(SIZE, 3), schedule=Schedule(1))
    assert [len(piece) for piece in rows] == [3, 3, 3, 3, 3, 3, 2, 2]
    assert sum(rows, []) == sum(order(tiny_split, schedule=Schedule(1)), [])  # noqa: RUF017


# The whole training, written out


class Plan(NamedTuple):
    """The settings of a training that matter to its outcome."""

    optimizer: Adam | SGD | Another
    noise: NoiseConfig = NoiseConfig()
    ghost: int = SIZE
    drops: tuple[int, ...] = ()
    dropout: float = 0.0


def by_hand(model: nn.Sequential, split: Split, plan: Plan) -> list[float]:
    """Three epochs of seed 0 as plainly as can be; returns the training loss by epoch."""
    optimizer, noise, rate, losses = plan.optimizer, plan.noise, plan.optimizer.lr, []
    built = optimizer.build(list(model.parameters()))
    for epoch in range(3):
        rate *= 0.1 if epoch in plan.drops else 1.0
        if optimizer.reset_every_epoch:
            built = optimizer.build(list(model.parameters()))
        built.param_groups[0]["lr"] = rate
        order = torch.randperm(EXAMPLES, generator=make_generator(0, "order", epoch))
        model.train()
        total = 0.0
        for step, rows in enumerate(order.split(SIZE)):
            now = UPDATES * epoch + step
            built.zero_grad()
            pieces = rows.chunk(SIZE // plan.ghost)
            for index, piece in enumerate(pieces):
                torch.manual_seed(derive_seed(0, "dropout", now, index))
                contexts: Any
                if noise.copies:
                    contexts = SmoothOutCopies(SmoothOut(model, noise.a), noise.copies)
                else:
                    place = index if noise.noise_per is NoisePer.ghost else 0
                    strength = (
                        noise.a * (1 + now) ** -0.275 if noise.strength_schedule is StrengthSchedule.anneal else noise.a
                    )
                    chance = make_generator(0, "noise", now, place)
                    contexts = [SmoothOut(model, strength, scaling=noise.scaling, generator=chance)]
                for context in contexts:
                    with context:
                        inputs, labels = split.gather(piece)
                        loss = F.cross_entropy(model(inputs), labels)
                        (loss / (len(pieces) * len(contexts))).backward()
                        total += loss.item() * len(piece) / len(contexts)
            if optimizer.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm)
            built.step()
        losses.append(total / EXAMPLES)
    return losses


@pytest.mark.parametrize(
    "plan",
    [
        Plan(Adam(0.01)),
        Plan(Adam(0.01, reset_every_epoch=True)),
        *(Plan(Another(0.01, reset_every_epoch=True, kind=kind)) for kind in ANOTHER.values()),
        Plan(SGD(0.1, 1e-3), ghost=3, drops=(1, 2)),
        Plan(SGD(0.1, reset_every_epoch=True, clip_norm=0.5), NoiseConfig(0.1), ghost=3, dropout=0.5),
        Plan(Adam(0.01), NoiseConfig(0.1, strength_schedule=StrengthSchedule.anneal), ghost=3),
        Plan(Adam(0.01), NoiseConfig(0.1, noise_per=NoisePer.batch), ghost=3),
        Plan(Adam(0.01), NoiseConfig(0.15, scaling=NoiseScaling.filter), dropout=0.5),
        Plan(Adam(0.01), NoiseConfig(0.1, copies=3), ghost=2, drops=(2,), dropout=0.5),
    ],
)
def test_the_training_is_the_one_written_out_by_hand_to_the_last_bit(plan: Plan, tiny_split: Splits) -> None:
    model, plain = network(dropout=plan.dropout), network(dropout=plan.dropout)
    settings = {"batch": Batch(SIZE, plan.ghost), "schedule": Schedule(3, plan.drops)}
    found = run(model, tiny_split, optimizer=plan.optimizer, method=plan.noise, **settings)
    losses = by_hand(plain, tiny_split(EXAMPLES), plan)
    assert same_bits(model.state_dict(), plain.state_dict())
    assert found.curves["train_loss"] == pytest.approx(losses, rel=1e-12)


# What is kept on the way


def test_the_learning_rate_follows_the_schedule(tiny_split: Splits) -> None:
    rates: list[float] = []

    def after_step(now: TrainingState, frozen: Callable[[], TrainingState]) -> None:
        rates.append(frozen().optimizer["param_groups"][0]["lr"])

    run(network(), tiny_split, schedule=Schedule(4, (1, 3), 0.5), optimizer=SGD(0.2), after_step=after_step)
    assert rates == pytest.approx([0.2] * 4 + [0.1] * 8 + [0.05] * 4)


@pytest.mark.parametrize("reset", [False, True])
def test_a_reset_optimizer_starts_every_epoch_with_no_state(tiny_split: Splits, reset: bool) -> None:
    counts = []

    def after_step(now: TrainingState, frozen: Callable[[], TrainingState]) -> None:
        counts.append({int(state["step"]) for state in frozen().optimizer["state"].values()})

    run(network(), tiny_split, optimizer=Adam(0.01, reset_every_epoch=reset), after_step=after_step)
    assert counts == [{n} for n in ([1, 2, 3, 4] * 3 if reset else range(1, 13))]


def test_the_best_weights_are_those_of_the_first_epoch_with_the_best_accuracy(
    tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = [0.5, 0.9, 0.7, 0.9, 0.8]
    measured = iter([EvalResult(1.0, accuracy) for accuracy in accuracies])
    monkeypatch.setattr(trainer, "evaluate", lambda model, batches, add_up: next(measured))
    ends: list[dict[str, Tensor]] = []

    def after_step(now: TrainingState, frozen: Callable[[], TrainingState]) -> None:
        if now.step == UPDATES:
            ends.append(copy.deepcopy(now.model))

    found = run(network(), tiny_split, schedule=Schedule(5), method=NoiseConfig(0.3), after_step=after_step)
    assert found.curves["test_accuracy"] == accuracies
    assert found.best_epoch == 1
    assert same_bits(found.best, ends[1])
    assert same_bits(found.model, ends[4])
    assert not any(same_bits(ends[i], ends[j]) for i in range(5) for j in range(i))


def test_curves_are_measured_with_the_clean_weights_of_each_epochs_end(tiny_split: Splits) -> None:
    wanted = []

    def after_step(now: TrainingState, frozen: Callable[[], TrainingState]) -> None:
        if now.step == UPDATES:
            model = network(dropout=0.5)
            model.load_state_dict(now.model)
            wanted.append(evaluate(model, tiny_split(10, seed=1).batches(1000)))

    found = run(network(dropout=0.5), tiny_split, method=NoiseConfig(0.5), after_step=after_step)
    assert found.curves["test_loss"] == [measured.loss for measured in wanted]
    assert found.curves["test_accuracy"] == [measured.accuracy for measured in wanted]


@pytest.mark.parametrize("reset", [False, True])
def test_a_loss_that_is_no_longer_finite_ends_the_training(tiny_split: Splits, reset: bool) -> None:
    found = run(
        network(batchnorm=False), tiny_split, optimizer=SGD(1e30, reset_every_epoch=reset), schedule=Schedule(9)
    )
    assert found.diverged
    assert found.epoch == 1
    assert {len(curve) for curve in found.curves.values()} == {1}
    assert not math.isfinite(found.curves["train_loss"][0])
    assert found.best
    again = run(network(batchnorm=False), tiny_split, schedule=Schedule(9), resume=replace(found, optimizer={}))
    assert again.epoch == 1
