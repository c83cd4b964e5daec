"""Ghost batches in one pass end where ghost batches in turn end, and go in turn where they must."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from torch import Tensor, nn

from smoothout.data.split import Split
from smoothout.nn.ghost_batchnorm import forward_ghosts
from smoothout.nn.options import NoiseScaling
from smoothout.training import checkpoint, ghost_batches
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, GhostPasses
from smoothout.training.ghost_batches import buffer_use, statistics_batches
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

Splits = Callable[..., Split]
EXAMPLES = 44
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def dense(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Linear(16, 12, bias=False)  # before BatchNorm a bias has a gradient of rounding alone
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))


def training(tiny_split: Splits, model: nn.Module, ghosts: GhostPasses, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "optimizer": SGD(0.02, clip_norm=0.5),
        "schedule": Schedule(2),
        "batch": Batch(12, 4),
        "method": NoiseConfig(),
        "seed": 0,
        "engine": Engine(ghosts=ghosts),
        **changes,
    }
    return Trainer(model, tiny_split(EXAMPLES), tiny_split(10, seed=1), **settings)


def both(tiny_split: Splits, make: Callable[[], nn.Module], **changes: Any) -> list[tuple[TrainingState, list[int]]]:
    """The ends in turn and in one pass, and how many examples each training pass of the network saw."""
    found = []
    for ghosts in (GhostPasses.sequential, GhostPasses.batched):
        model, sizes = make(), list[int]()
        run = training(tiny_split, model, ghosts, **changes)
        run._network = counted(run._network, sizes)
        found.append((run.run(), sizes))
    return found


def counted(network: Callable[[Tensor], Tensor], sizes: list[int]) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return network(inputs)

    return forward


def assert_same_end(found: TrainingState, wanted: TrainingState, rtol: float = 1e-4) -> None:
    for name, tensor in wanted.model.items():
        torch.testing.assert_close(found.model[name], tensor, rtol=rtol, atol=rtol / 10)
    for name in CURVES:
        assert found.curves[name] == pytest.approx(wanted.curves[name], rel=rtol)
    assert len(wanted.curves["train_loss"]) == 2


NOISES = {
    "none": NoiseConfig(),
    "one": NoiseConfig(0.1, noise_per=NoisePer.batch),
    "one, of the filters' lengths": NoiseConfig(0.2, scaling=NoiseScaling.filter, noise_per=NoisePer.batch),
}
BATCHES = {
    "equal; the last of 8 in pieces of 3, 3 and 2": Batch(12, 4),
    "unequal, 6 and 5": Batch(11, 5),
    "two batches per update; the last 8 and 4": Batch(8, 4, 2),
    "none": Batch(22),
}
PAIRS = [  # every noise meets every batch; networks alternate
    ((dense, convolutions)[(row + column) % 2], noise, batch)
    for row, noise in enumerate(NOISES.values())
    for column, batch in enumerate(BATCHES.values())
]


@pytest.mark.parametrize(("make", "noise", "batch"), PAIRS)
def test_one_pass_ends_where_ghost_batches_in_turn_end(
    make: Callable[[], nn.Module], noise: NoiseConfig, batch: Batch, tiny_split: Splits
) -> None:
    """Sums of at most 44 products in another order are off by 1e-6, and 8 updates add some."""
    (wanted, in_turn), (found, at_once) = both(tiny_split, make, method=noise, batch=batch)
    assert_same_end(found, wanted)
    assert sum(in_turn) == 2 * EXAMPLES
    assert (at_once == in_turn) is (batch.ghost is None)


@pytest.mark.parametrize(("make", "noise", "batch"), PAIRS[::3])
def test_examples_that_alternate_in_a_pass_as_on_cuda_end_there_too(
    make: Callable[[], nn.Module], noise: NoiseConfig, batch: Batch, tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ghost_batches, "forward_ghosts", partial(forward_ghosts, interleaved=True))
    (wanted, _), (found, _) = both(tiny_split, make, method=noise, batch=batch)
    assert_same_end(found, wanted)


def traces(end: TrainingState) -> list[float]:
    return [epoch["whole"][0] for epoch in end.curvature]


def passes_of(tiny_split: Splits, noise: NoiseConfig, batch: Batch) -> list[int]:
    return both(tiny_split, dense, method=noise, batch=batch, schedule=Schedule(1))[1][1]


def test_a_batch_is_a_pass_where_one_noise_serves_it_also_where_curvature_is_measured(tiny_split: Splits) -> None:
    one = NoiseConfig(0.1, noise_per=NoisePer.batch)
    assert passes_of(tiny_split, NoiseConfig(), Batch(12, 4)) == [12, 12, 12, 8]
    assert passes_of(tiny_split, one, Batch(12, 4)) == [12, 12, 12, 8]
    assert passes_of(tiny_split, one, Batch(8, 4, 2)) == [8, 8, 8, 8, 8, 4]


@pytest.mark.parametrize(("make", "noise", "batch"), [pair for pair in PAIRS if pair[1].a])
def test_measured_curvature_is_that_of_ghost_batches_one_after_another(
    make: Callable[[], nn.Module], noise: NoiseConfig, batch: Batch, tiny_split: Splits
) -> None:
    (wanted, _), (found, _) = both(tiny_split, make, method=noise, batch=batch)
    assert [epoch["draws"] for epoch in found.curvature] == [batch.updates_per_epoch(EXAMPLES)] * 2
    for one, other in zip(found.curvature, wanted.curvature, strict=True):
        for layer, (mean, _) in other["layers"].items():
            size = max(abs(mean), abs(other["whole"][0]))
            assert one["layers"][layer][0] == pytest.approx(mean, abs=1e-3 * size)


class OwnBatchNorm(nn.BatchNorm1d):
    pass


def twice() -> nn.Module:
    """A network that uses its BatchNorm layer twice, so its running statistics have seen each ghost batch twice."""
    norm = nn.BatchNorm1d(12)
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), norm, nn.Tanh())
    return nn.Sequential(*first, nn.Linear(12, 12), norm, nn.Linear(12, 3))


@pytest.mark.parametrize(
    ("model", "noise", "batch"),
    [
        (dense, NoiseConfig(0.1, copies=2), Batch(12, 4)),
        (dense, NoiseConfig(0.1, denoise=False), Batch(12, 4)),
        (dense, NoiseConfig(0.1, denoise=False, noise_per=NoisePer.batch), Batch(12, 4)),
        (lambda: dense(0.5), NoiseConfig(), Batch(12, 4)),
        (lambda: dense(0.5), NoiseConfig(0.1), Batch(12, 4)),
        (lambda: nn.Sequential(*dense(), OwnBatchNorm(3)), NoiseConfig(), Batch(12, 4)),
        (twice, NoiseConfig(), Batch(12, 4)),
        (twice, NoiseConfig(0.1, noise_per=NoisePer.batch), Batch(12, 4)),
        (dense, NoiseConfig(0.1), Batch(12, 4)),
        (dense, NoiseConfig(0.1), Batch(22)),
        (dense, NoiseConfig(0.1), Batch(11, None, 2)),
    ],
)
def test_what_cannot_go_in_one_pass_goes_in_turn_to_the_last_bit(
    model: Callable[[], nn.Module], noise: NoiseConfig, batch: Batch, tiny_split: Splits
) -> None:
    assert (
        training(tiny_split, model(), GhostPasses.batched, method=noise, batch=batch).engine.ghosts
        is GhostPasses.sequential
    )
    (wanted, in_turn), (found, at_once) = both(tiny_split, model, method=noise, batch=batch)
    assert at_once == in_turn
    assert same_bits(wanted.model, found.model)


def test_a_training_in_one_pass_resumes_to_the_same_bits(tiny_split: Splits, tmp_path: Path) -> None:
    noise = NOISES["one"]
    wanted = training(tiny_split, convolutions(), GhostPasses.batched, method=noise).run()
    first = training(tiny_split, convolutions(), GhostPasses.batched, method=noise)
    for done, _ in enumerate(first, 1):
        if done == 6:
            checkpoint.save(tmp_path / "run.pt", first.state(), "digest")
            break
    snapshot = checkpoint.load(tmp_path / "run.pt", "digest")
    found = training(tiny_split, convolutions(), GhostPasses.batched, method=noise, resume=snapshot).run()
    assert same_bits(wanted.model, found.model)
    assert all(found.curves[name] == wanted.curves[name] for name in CURVES)
    assert traces(found) == traces(wanted)


def test_the_model_has_its_plain_layers_and_weights_between_updates(tiny_split: Splits) -> None:
    for noise in NOISES.values():
        model = dense()
        weights = [parameter.data_ptr() for parameter in model.parameters()]
        for _ in training(tiny_split, model, GhostPasses.batched, method=noise):
            assert type(model[2]) is nn.BatchNorm1d
            assert [parameter.data_ptr() for parameter in model.parameters()] == weights


def test_one_ghost_batch_per_batch_is_the_batch_also_for_statistics(tiny_split: Splits) -> None:
    """Both have the same digest."""
    split = tiny_split(20)
    assert statistics_batches(split, Batch(8, ghost=5)).size == statistics_batches(split, Batch(8)).size == 8
    assert statistics_batches(split, Batch(8, ghost=4)).size == 4


def test_a_compiled_network_takes_ghost_batches_in_one_pass(
    tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = torch.compile  # its options are those of the default backend
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiler(model, backend="aot_eager", dynamic=False))
    wanted = training(tiny_split, dense(), GhostPasses.sequential, method=NOISES["one"]).run()
    run = training(
        tiny_split, dense(), GhostPasses.batched, method=NOISES["one"], engine=Engine(compile=True, ghosts="batched")
    )
    assert run.engine.ghosts is GhostPasses.batched
    assert_same_end(run.run(), wanted)


class Twice(nn.Module):
    """Uses a BatchNorm layer twice, and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.unused = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.layer(self.norm(x)))
        return found


NORMALIZED = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("model", "one_pass", "refusal"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), True, None),
        (Twice(), False, "model: norm is used 2 times in a pass; .* each BatchNorm layer once"),
        (NORMALIZED, False, r"model: a pass changes parametrizations\.weight\.0\._u, which several processes"),
    ],
    ids=["plain", "twice", "spectral norm"],
)
def test_what_a_pass_does_to_buffers_decides_how_ghost_batches_are_split(
    model: nn.Module, one_pass: bool, refusal: str | None
) -> None:
    before = copy.deepcopy(model.state_dict())
    use = buffer_use(model, torch.ones(1, 4), 2)
    assert use.fits_one_pass is one_pass
    with pytest.raises(ValueError, match=refusal) if refusal else nullcontext():
        buffer_use(model, torch.ones(1, 4)).check_fits_processes()
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


class Indivisible(nn.BatchNorm1d):
    """A BatchNorm layer of a user's own, which cannot normalize ghost batches by themselves."""


@pytest.mark.parametrize("ghosts", [GhostPasses.sequential, GhostPasses.batched])
def test_several_processes_refuse_what_they_cannot_combine_however_ghost_batches_are_forwarded(
    ghosts: GhostPasses, tiny_split: Splits
) -> None:
    norm = Indivisible(16)
    ranks = ProcessGroup(0, 2)
    with pytest.raises(ValueError, match=r"^model: 1 is used 2 times in a pass"):
        training(tiny_split, nn.Sequential(nn.Flatten(), norm, norm, nn.Linear(16, 3)), ghosts, ranks=ranks)
    with pytest.raises(ValueError, match=r"^model: SyncBatchNorm layers are not possible with several processes"):
        training(tiny_split, nn.SyncBatchNorm.convert_sync_batchnorm(dense()), ghosts, ranks=ranks)
