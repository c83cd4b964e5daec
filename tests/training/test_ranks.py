"""Several processes make the updates that one makes: weights, averages, curves, chance; and resume one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from crew import Crew
from hypothesis import given
from hypothesis import strategies as st
from photographs import tree
from torch import Tensor, nn

from smoothout import progress
from smoothout.data.augment import CropFlip
from smoothout.data.images import Split
from smoothout.data.photos import Collection, Photos
from smoothout.perturbation import Course, Draw, Law, Noise, Scaling
from smoothout.progress import Interrupted
from smoothout.training import checkpoint, loop
from smoothout.training.checkpoint import Snapshot
from smoothout.training.engine import Engine, Ghosts, Launch
from smoothout.training.loop import Training
from smoothout.training.optimizers import Adam, Momentum
from smoothout.training.ranks import EndedError, Ranks
from smoothout.training.schedule import Schedule
from smoothout.training.step import Batch

CPU = torch.device("cpu")
EXAMPLES, TESTED = 47, 10
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
DIGEST = "c3" * 32
SETTINGS: dict[str, Any] = {
    "optimizer": Momentum(0.05, weight_decay=1e-3, clip_norm=0.5),
    "schedule": Schedule(2),
    "batch": Batch(12, 3),  # an epoch's last update has 11 examples: 3, 3, 3 and 2
    "noise": Noise(),
    "seed": 0,
}
LAST_IS_ONE = "an epoch's last update is one ghost batch"
CASES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adam, made anew": {"optimizer": Adam(0.01, reset_every_epoch=True)},
    "noise of their own": {"noise": Noise(0.1)},
    "one noise": {"noise": Noise(0.1, draw=Draw.batch)},
    "gaussian, falling": {"noise": Noise(0.1, Law.gaussian, course=Course.tanh_falling)},
    "adasmoothout": {"noise": Noise(0.2, scaling=Scaling.filter, batchnorm=True)},
    "noise left in": {"noise": Noise(0.1, scaling=Scaling.filter, denoise=False)},
    "copies": {"noise": Noise(0.1, copies=2)},
    "dropout": {"noise": Noise(0.1), "dropout": 0.5},
    "augmented": {"augmentation": CropFlip((127,))},
    "batches added up": {"noise": Noise(0.1), "batch": Batch(5, None, 4)},
    LAST_IS_ONE: {"batch": Batch(4, None, 9), "examples": 39},
    "one pass": {"batch": Batch(6, 2, 4), "examples": 46, "engine": Engine(ghosts=Ghosts.one_pass)},
    "one pass, noise of their own": {
        "noise": Noise(0.1),
        "batch": Batch(6, 2, 4),
        "examples": 46,
        "engine": Engine(ghosts=Ghosts.one_pass),
    },
    "one pass where a rank has whole batches": {
        "batch": Batch(8, 2, 3),
        "examples": 46,
        "engine": Engine(ghosts=Ghosts.one_pass),
    },
}


class Exact(nn.Module):
    """A small network in float64, where sums in another order differ by 1e-16 and not by what Adam makes of 1e-8."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [nn.Linear(16, 12, bias=False), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(12, 3)).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double())


def split(examples: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    pixels = torch.randint(0, 120, (examples, 4, 4, 1), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
    return Split(pixels.to(torch.uint8), labels, (0.5,), (0.5,))


def training(ranks: Ranks, **changes: Any) -> Training:
    settings = {**SETTINGS, **changes}
    model = Exact(settings.pop("dropout", 0.0))
    train_split = split(settings.pop("examples", EXAMPLES))
    return Training(model, train_split, split(TESTED, 1), ranks=ranks, **settings)


def end(ranks: Ranks, name: str) -> Snapshot:
    loop.evaluation_batch = lambda device: 3  # the four batches of the test split are shared too
    loop.CURVATURE_DRAWS = 1
    return training(ranks, **CASES[name]).run()


def one_update(ranks: Ranks) -> dict[str, Tensor]:
    """In float32, as a user has it."""
    torch.manual_seed(0)
    hidden = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*hidden, nn.Linear(24, 3)).to(memory_format=torch.channels_last)
    settings = {**SETTINGS, "noise": Noise(0.0375)}
    run = Training(model, split(EXAMPLES), split(TESTED, 1), ranks=ranks, **settings)
    return {name: tensor.clone() for name, tensor in next(iter(run)).model.items()}


def part_of_a_run(ranks: Ranks, path: Path, updates: int) -> None:
    """Go on from the checkpoint at ``path``, if it is there, and leave one after so many updates or at the end."""
    resume = checkpoint.load(path, DIGEST) if path.exists() else None
    run = training(ranks, **CASES["noise of their own"], resume=resume)
    for _ in islice(run, updates):
        pass
    ranks.add_up([torch.zeros(1)])  # nobody writes before all have read
    if ranks.rank == 0:
        checkpoint.save(path, run.frozen(), DIGEST)


def photographed(ranks: Ranks, folder: Path) -> Snapshot:
    data = Photos(Collection.imagenette, (0.5,) * 3, (0.5,) * 3, side=4, short=6, workers=2)
    train_split, test_split, _ = data.load(folder, CPU)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    settings = {**SETTINGS, "batch": Batch(10, 5, 2), "augmentation": data.augmentation, "ranks": ranks}
    return Training(model, train_split, test_split, **settings).run()


def agreed(ranks: Ranks, asked: int) -> tuple[int, int]:
    """What all agree upon where rank 1 alone was sent the signal ``asked``; and what then waits here."""
    with suppress(Interrupted), progress.interruptible():
        if asked and ranks.rank == 1:
            progress.ask_to_stop(asked)
        found = ranks.agree_to_stop(), progress.asked_to_stop()
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with Crew(3, tmp_path_factory.mktemp("three") / "meeting") as crew:
        yield crew


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with Crew(2, tmp_path_factory.mktemp("two") / "meeting") as crew:
        yield crew


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The update


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_where_one_ends(two: Crew, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_end(two, name, monkeypatch)


@pytest.mark.parametrize("name", ["noise of their own", "noise left in", "one pass", LAST_IS_ONE])
def test_three_processes_end_where_one_ends(three: Crew, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_end(three, name, monkeypatch)


def assert_same_end(crew: Crew, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running averages and the curvature of the noise included; every rank has the same bits."""
    monkeypatch.setattr(loop, "CURVATURE_DRAWS", 1)
    monkeypatch.setattr(loop, "evaluation_batch", lambda device: 3)
    wanted = end(Ranks(), name)
    first, *others = crew(end, name)
    assert_close(first.model, wanted.model, 1e-11)
    assert_close(first.best, wanted.best, 1e-11)
    for curve in CURVES:
        assert first.curves[curve] == pytest.approx(wanted.curves[curve], rel=1e-11)
    assert [epoch["whole"][0] for epoch in first.curvature] == pytest.approx(
        [epoch["whole"][0] for epoch in wanted.curvature], rel=1e-5
    )
    assert all(same_bits(first.model, other.model) for other in others)
    assert not same_bits(wanted.model, training(Ranks(), **CASES[name])._model.state_dict())


def test_in_float32_the_update_of_two_processes_is_that_of_one_to_1e_6(two: Crew) -> None:
    wanted = one_update(Ranks())
    for found in two(one_update):
        assert_close(found, wanted, 1e-6)


def test_ranks_have_noise_of_their_own_unless_they_share_one() -> None:
    """Rank 1 of 2 draws for its ghost batches what one process draws for them."""
    drawn = {}
    for draw in Draw:
        for ranks in (Ranks(0, 2), Ranks(1, 2)):
            run = training(ranks, noise=Noise(0.1, draw=draw))
            run._perturb.at(0)
            ghost = ranks.share(4).start
            with run._perturb(ghost)[0] as context:
                drawn[draw, ranks.rank] = torch.cat([theta.flatten() for theta in context.noise()])
    assert not torch.equal(drawn[Draw.ghost, 0], drawn[Draw.ghost, 1])
    assert torch.equal(drawn[Draw.batch, 0], drawn[Draw.batch, 1])


@given(st.integers(0, 500), st.integers(1, 40))
def test_shares_are_even_adjoining_and_the_whole(count: int, size: int) -> None:
    shares = [range(count)[Ranks(rank, size).share(count)] for rank in range(size)]
    assert [one for share in shares for one in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_gradients_are_added_up_once_an_update(two: Crew) -> None:
    messages = two(messages_of_an_update)[0]
    assert messages == [("torch.float64", messages[0][1])], "gradients, averages and sums are one message in one dtype"
    parameters = sum(p.numel() for p in Exact().parameters())
    assert messages[0][1] == parameters + 2 * 12 + 2


def messages_of_an_update(ranks: Ranks) -> list[tuple[str, int]]:
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


def test_batchnorm_without_a_momentum_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3, momentum=None))
    with pytest.raises(ValueError, match=r"^momentum: None in a BatchNorm layer"):
        Training(model, split(EXAMPLES), split(TESTED, 1), ranks=Ranks(0, 2), **SETTINGS)


def test_a_recorded_update_is_not_shared() -> None:
    found = []

    class Spied(Engine):
        def resolved(self, device: Any, precision: Any, recordable: bool, *more: Any) -> Engine:
            found.append(recordable)
            return replace(Engine(Launch.eager), ghosts=Ghosts.in_turn)

    for ranks in (Ranks(), Ranks(0, 2)):
        training(ranks, engine=Spied())
    assert found == [True, False]


# Photographs


def test_each_rank_reads_its_own_photographs_and_all_end_where_one_ends(two: Crew, tmp_path: Path) -> None:
    folder = tree(tmp_path / "imagenette", {"train": 5, "val": 2}).parent
    wanted = photographed(Ranks(), folder)
    for found in two(photographed, folder):
        assert_close(found.model, wanted.model, 1e-5)
        assert found.curves["test_loss"] == pytest.approx(wanted.curves["test_loss"], rel=1e-5)


def test_what_ranks_are_told_to_read_ahead_is_each_ones_share_of_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(loop, "passes", None)  # nothing is computed
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        run = training(ranks)
        run._examples.awaited = lambda order, start: told.append((order.tolist(), start)) or order  # type: ignore[method-assign]
        run._now.step = 2
        run._open_epoch()
    (whole, start), (first, first_start), (second, second_start) = told
    assert start == first_start + second_start == 24
    updates = [whole[place : place + 12] for place in range(0, EXAMPLES, 12)]
    assert first == [row for rows in updates for row in rows[:6]]
    assert second == [row for rows in updates for row in rows[6:]]


# Going on


def test_a_checkpoint_of_two_processes_is_gone_on_with_by_one_and_back(two: Crew, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    two(part_of_a_run, path, 3)
    assert checkpoint.load(path, DIGEST).step == 3
    part_of_a_run(Ranks(), path, 2)
    assert (checkpoint.load(path, DIGEST).epoch, checkpoint.load(path, DIGEST).step) == (1, 1)
    two(part_of_a_run, path, 99)
    found, wanted = checkpoint.load(path, DIGEST), training(Ranks(), **CASES["noise of their own"]).run()
    assert_close(found.model, wanted.model, 1e-11)
    for curve in CURVES:
        assert found.curves[curve] == pytest.approx(wanted.curves[curve], rel=1e-6)  # measured in float32
    assert len(found.curves["test_loss"]) == 2


@pytest.mark.parametrize("asked", [0, 15])
def test_a_signal_that_one_rank_was_sent_counts_for_all(two: Crew, asked: int) -> None:
    assert two(agreed, asked) == [(asked, asked)] * 2


def test_one_process_asks_nobody() -> None:
    alone = Ranks()
    tensor = torch.ones(3)
    alone.add_up([tensor])
    assert torch.equal(tensor, torch.ones(3))
    with alone.leading(lambda: pytest.fail("there is nobody to lead")):
        assert alone.agree_to_stop() == 0
    assert alone.may_tell()
    alone.part()


def test_an_order_reaches_the_other_ranks_until_they_are_dismissed(two: Crew) -> None:
    assert two(orders) == [None, [{"lr": 0.1, "weights": [1.0, 2.0]}, "again"]]


def orders(ranks: Ranks) -> list[Any] | None:
    if ranks.rank:
        found = []
        for order in ranks.orders():
            found.append({**order, "weights": order["weights"].tolist()} if isinstance(order, dict) else order)
            if order == "again":
                return found
    for order in ({"lr": 0.1, "weights": torch.tensor([1.0, 2.0])}, "again"):
        with ranks.leading(lambda order=order: order):
            pass
    return None


def test_an_error_of_the_leader_ends_all_and_one_after_it_is_no_leader(two: Crew) -> None:
    assert two(failing) == ["EndedError from ValueError", "followed"]


def failing(ranks: Ranks) -> str:
    if ranks.rank:
        next(iter(ranks.orders()))
        return "followed"
    try:
        with ranks.leading(lambda: "order"):
            raise ValueError
    except EndedError as error:
        return f"EndedError from {type(error.__cause__).__name__}"
    return "nothing"
