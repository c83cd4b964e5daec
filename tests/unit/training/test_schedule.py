"""Epochs and learning rates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothout.training.batch import Batch
from smoothout.training.schedule import LrScaling, Schedule

BATCH = Batch(128)
drops = st.lists(st.integers(1, 300), max_size=4).map(tuple)


def test_the_learning_rate_drops_at_the_start_of_each_named_epoch() -> None:
    """ResNet44 on CIFAR: x0.1 at 81, 122 and 164 of 200."""
    schedule = Schedule(200, (81, 122, 164))
    wanted = {0: 1.0, 80: 1.0, 81: 0.1, 121: 0.1, 122: 0.01, 163: 0.01, 164: 0.001, 199: 0.001}
    assert {epoch: schedule.lr_factor(epoch, BATCH) for epoch in wanted} == pytest.approx(wanted)


def test_drops_need_no_order_and_two_at_one_epoch_count_twice() -> None:
    schedule = Schedule(9, (6, 3, 3), 0.5)
    assert [schedule.lr_factor(epoch, BATCH) for epoch in range(8)] == [1, 1, 1, 0.25, 0.25, 0.25, 0.125, 0.125]


@given(st.integers(1, 300), drops, st.floats(0.01, 2), st.integers(1, 4))
def test_training_longer_multiplies_epochs_and_drops_by_the_same_number(
    epochs: int, drops: tuple[int, ...], factor: float, times: int
) -> None:
    short = Schedule(epochs, drops, factor)
    long = short.scaled(times)
    assert (long.epochs, long.milestones, long.gamma) == (times * epochs, tuple(times * drop for drop in drops), factor)
    for epoch in range(0, epochs, 7):
        assert long.lr_factor(times * epoch, BATCH) == short.lr_factor(epoch, BATCH)


@given(st.integers(1, 300), drops, st.floats(1e-4, 1))
def test_a_share_of_a_schedule_keeps_its_shape_to_half_an_epoch(
    epochs: int, drops: tuple[int, ...], share: float
) -> None:
    part = Schedule(epochs, drops).scaled(share)
    for whole, scaled in zip((epochs, *drops), (part.epochs, *part.milestones), strict=True):
        assert scaled == 1 or abs(scaled - share * whole) <= 0.5
        assert scaled >= 1


def test_the_epochs_that_are_kept_are_those_of_shorter_trainings_at_any_share() -> None:
    whole = Schedule(100, (50, 80), 0.5, keep_epochs=(1, 20, 60, 100))
    assert whole.beginnings() == [Schedule(epochs, (50, 80), 0.5) for epochs in (1, 20, 60)]
    for share in (0.1, 0.01, 2.0):
        shorter = [Schedule(epochs, (50, 80), 0.5).scaled(share) for epochs in (1, 20, 60)]
        end = whole.scaled(share).epochs
        assert whole.scaled(share).beginnings() == [s for s in dict.fromkeys(shorter) if s.epochs < end]


def test_epochs_that_are_kept_lie_after_the_start() -> None:
    with pytest.raises(ValueError, match=r"^keep_epochs: must be numbers of epochs from 1 on, not \[5, 0\]"):
        Schedule(100, keep_epochs=(5, 0))


@given(st.integers(1, 300), drops, st.floats(0.01, 2))
def test_a_simplified_schedule_has_the_same_learning_rates(epochs: int, drops: tuple[int, ...], factor: float) -> None:
    whole = Schedule(epochs, drops, factor)
    plain = whole.canonicalized()
    assert plain.epochs == epochs
    assert [plain.lr_factor(e, BATCH) for e in range(epochs)] == [whole.lr_factor(e, BATCH) for e in range(epochs)]
    assert list(plain.milestones) == sorted(plain.milestones)
    assert plain.canonicalized() == plain


def test_drops_that_are_never_reached_and_an_idle_factor_do_not_count() -> None:
    assert Schedule(5, (5, 9), 0.5).canonicalized() == Schedule(5)
    assert Schedule(5, (9, 4, 2), 0.5).canonicalized() == Schedule(5, (2, 4), 0.5)


@pytest.mark.parametrize(
    ("batch", "scaling", "factor"),
    [
        (Batch(2048, 128), LrScaling.sqrt, 4.0),  # CIFAR-10: 0.4
        (Batch(1024, 128), LrScaling.sqrt, math.sqrt(8)),  # CIFAR-100: 0.283
        (Batch(1024, 128), LrScaling.linear, 8.0),  # CIFAR-100: 0.8
        (Batch(2048, 128, 8), LrScaling.sqrt, math.sqrt(128)),  # AlexNet at 16384: 0.113 / 0.01
        (Batch(2048, None, 8), LrScaling.sqrt, math.sqrt(8)),  # in the released program too
        (Batch(2048), LrScaling.sqrt, 1.0),  # "without tuning": no ghost batches, nothing scaled
        (Batch(2048, 128), LrScaling.none, 1.0),
    ],
)
def test_the_published_learning_rates_come_from_batch_multiplier_and_ghost_batch(
    batch: Batch, scaling: LrScaling, factor: float
) -> None:
    assert Schedule(200, lr_scaling=scaling).lr_factor(0, batch) == pytest.approx(factor)


def test_a_shorter_schedule_of_the_same_shape_has_a_shorter_warm_up() -> None:
    whole = Schedule(90, (30, 60), lr_scaling=LrScaling.sqrt, warmup_epochs=5)
    assert whole.scaled(0.2) == replace(whole, epochs=18, milestones=(6, 12), warmup_epochs=1)
    assert whole.scaled(0.01).warmup_epochs == 1
    assert Schedule(90, (30,)).scaled(0.1).warmup_epochs == 0


def test_another_reference_than_the_ghost_batch_can_be_named() -> None:
    """AlexNet's small batch is 256, its ghost batch 128."""
    assert Schedule(60, lr_scaling=LrScaling.linear, base_batch_size=256).lr_scale(Batch(2048, 128, 8)) == 64


def test_warm_up_rises_in_a_straight_line_from_the_unscaled_learning_rate_and_then_drops_as_ever() -> None:
    schedule = Schedule(20, (10,), lr_scaling=LrScaling.linear, warmup_epochs=5)
    batch = Batch(1024, 128)
    wanted = {0: 1.0, 2.5: 4.5, 4.9: 1 + 7 * 0.98, 5: 8.0, 9.9: 8.0, 10: 0.8}
    assert {epoch: schedule.lr_factor(epoch, batch) for epoch in wanted} == pytest.approx(wanted)


def test_what_scales_nothing_is_no_part_of_a_schedule() -> None:
    assert Schedule(5, base_batch_size=128).canonicalized() == Schedule(5)
    assert Schedule(5, lr_scaling=LrScaling.sqrt).canonicalized() == Schedule(5, lr_scaling=LrScaling.sqrt)
