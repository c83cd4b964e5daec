"""Several processes make the updates that one makes: weights, running statistics, curves, random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.distributed_cases import (
    CASES,
    CURVES,
    EXAMPLES,
    LAST_IS_ONE,
    SETTINGS,
    TESTED,
    Exact,
    assert_close,
    split,
    training,
)
from helpers.image_tree import tree
from helpers.process_group import Crew
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from smoothout.data.datasets import Collection
from smoothout.data.image_folder import ImageFolder
from smoothout.training import noise_contexts, trainer
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.trainer import Trainer

CPU = torch.device("cpu")


def end(ranks: ProcessGroup, name: str) -> TrainingState:
    with pytest.MonkeyPatch.context() as patch:  # in each process; later tests share them
        patch.setattr(trainer, "eval_batch_size", lambda device: 3)  # the four batches of the test split are shared too
        patch.setattr(noise_contexts, "CURVATURE_DRAWS", 1)
        return training(ranks, **CASES[name]).run()


def one_update(ranks: ProcessGroup) -> dict[str, Tensor]:
    """In float32, as a user has it."""
    torch.manual_seed(0)
    hidden = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*hidden, nn.Linear(24, 3)).to(memory_format=torch.channels_last)
    settings = {**SETTINGS, "method": NoiseConfig(0.0375)}
    run = Trainer(model, split(EXAMPLES), split(TESTED, 1), ranks=ranks, **settings)
    return {name: tensor.clone() for name, tensor in next(iter(run)).model.items()}


def image_folder_run(ranks: ProcessGroup, folder: Path) -> TrainingState:
    data = ImageFolder(Collection.imagenette, (0.5,) * 3, (0.5,) * 3, crop_size=4, resize_size=6, workers=0)
    train_split, test_split, _ = data.load(folder, CPU)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    settings = {**SETTINGS, "batch": Batch(10, 5, 2), "augmentation": data.augmentation, "ranks": ranks}
    return Trainer(model, train_split, test_split, **settings).run()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with Crew(3, tmp_path_factory.mktemp("three") / "meeting") as crew:
        yield crew


# The update


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_where_one_ends(two: Crew, name: str) -> None:
    assert_same_end(two, name)


@pytest.mark.parametrize("name", ["noise of their own", LAST_IS_ONE])
def test_three_processes_end_where_one_ends(three: Crew, name: str) -> None:
    assert_same_end(three, name)


def assert_same_end(crew: Crew, name: str) -> None:
    """Running statistics and the curvature of the noise included; every rank has the same bits."""
    wanted = end(ProcessGroup(), name)
    first, *others = crew(end, name)
    assert_close(first.model, wanted.model, 1e-11)
    assert_close(first.best, wanted.best, 1e-11)
    for curve in CURVES:
        assert first.curves[curve] == pytest.approx(wanted.curves[curve], rel=1e-11)
    assert [epoch["whole"][0] for epoch in first.curvature] == pytest.approx(
        [epoch["whole"][0] for epoch in wanted.curvature], rel=1e-5
    )
    assert all(same_bits(first.model, other.model) for other in others)
    assert not same_bits(wanted.model, training(ProcessGroup(), **CASES[name])._model.state_dict())


def test_in_float32_the_update_of_two_processes_is_that_of_one_to_1e_6(two: Crew) -> None:
    """Gradients are added up in another order, which costs 1e-7 of them, and the update is a twentieth of that."""
    wanted = one_update(ProcessGroup())
    for found in two(one_update):
        assert_close(found, wanted, 1e-6)


@given(st.integers(0, 500), st.integers(1, 40))
def test_shares_are_even_adjoining_and_the_whole(count: int, size: int) -> None:
    shares = [range(count)[ProcessGroup(rank, size).shard(count)] for rank in range(size)]
    assert [one for share in shares for one in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_gradients_are_added_up_once_per_update(two: Crew) -> None:
    messages = two(messages_of_an_update)[0]
    assert messages == [("torch.float64", messages[0][1])], "gradients, statistics and sums are one message, one dtype"
    parameters = sum(p.numel() for p in Exact().parameters())
    assert messages[0][1] == parameters + 2 * 12 + 2


def messages_of_an_update(ranks: ProcessGroup) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    whole = torch.distributed.all_reduce

    def noted(tensor: Tensor, *more: Any, **named: Any) -> Any:
        found.append((str(tensor.dtype), tensor.numel()))
        return whole(tensor, *more, **named)

    torch.distributed.all_reduce = noted
    try:
        next(iter(training(ranks)))
    finally:
        torch.distributed.all_reduce = whole
    return found


# Image folders


def test_each_rank_reads_its_own_images_and_all_end_where_one_ends(two: Crew, tmp_path: Path) -> None:
    """In float32: each of six updates rounds differently, by 1e-7 of the gradient."""
    folder = tree(tmp_path / "imagenette", {"train": 5, "val": 2}).parent
    wanted = image_folder_run(ProcessGroup(), folder)
    for found in two(image_folder_run, folder):
        assert_close(found.model, wanted.model, 1e-5)
        assert found.curves["test_loss"] == pytest.approx(wanted.curves["test_loss"], rel=1e-5)


def test_what_ranks_are_told_to_read_ahead_is_each_ones_share_of_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(trainer, "plan_passes", None)  # nothing is computed
    for ranks in (ProcessGroup(), ProcessGroup(0, 2), ProcessGroup(1, 2)):
        run = training(ranks)
        run._examples.prefetch = lambda order, start: told.append((order.tolist(), start)) or order  # type: ignore[method-assign]
        run._state.step = 2
        run._begin_epoch()
    (whole, start), (first, first_start), (second, second_start) = told
    assert start == first_start + second_start == 24
    updates = [whole[place : place + 12] for place in range(0, EXAMPLES, 12)]
    assert first == [row for rows in updates for row in rows[:6]]
    assert second == [row for rows in updates for row in rows[6:]]
