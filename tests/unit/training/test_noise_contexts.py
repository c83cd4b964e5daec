"""The curvature that a noisy training sees: by hand, over ghost batches, and through an interruption."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from torch import nn
from torch.nn import functional as F

from smoothout import SmoothOut
from smoothout.common.rng import make_generator
from smoothout.data.split import Split
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, GhostPasses
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

Splits = Callable[..., Split]
EXAMPLES, SIZE, UPDATES = 22, 6, 4


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def training(tiny_split: Splits, model: nn.Module, noise: NoiseConfig, **changes: Any) -> Trainer:
    settings = {"batch": Batch(SIZE), "schedule": Schedule(2), **changes}
    splits = tiny_split(EXAMPLES), tiny_split(10, seed=1)
    return Trainer(model, *splits, optimizer=Adam(0.01), method=noise, seed=4, **settings)


@pytest.mark.parametrize(
    ("law", "variance"), [(NoiseDistribution.uniform, 0.1**2 / 3), (NoiseDistribution.gaussian, 0.1**2)]
)
@pytest.mark.parametrize(("ghost", "multiplier"), [(None, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("draw", NoisePer)
@pytest.mark.parametrize("ghosts", [GhostPasses.sequential, GhostPasses.batched])
def test_the_recorded_curvature_is_theta_times_gradient_over_the_variance(
    *,
    tiny_split: Splits,
    law: NoiseDistribution,
    variance: float,
    ghost: int | None,
    multiplier: int,
    draw: NoisePer,
    ghosts: GhostPasses,
) -> None:
    """An epoch by hand: every update's first ghost batch, its own gradient and noise, or the mean gradient of all ghost
    batches where they have one noise; the last update is smaller."""
    noise, batch = NoiseConfig(0.1, law, noise_per=draw), Batch(SIZE, ghost, multiplier)
    run = training(tiny_split, network(), noise, batch=batch, schedule=Schedule(1), engine=Engine(ghosts=ghosts))
    found, model, split = run.run().curvature, network().train(), tiny_split(EXAMPLES)
    optimizer = Adam(0.01).build(list(model.parameters()))
    context, order = SmoothOut(model, 0.1, law), torch.randperm(EXAMPLES, generator=make_generator(4, "order", 0))
    products, last_layer = list[float](), list[float]()
    for rows in order.split(batch.examples_per_update):
        pieces = [piece for part in rows.split(SIZE) for piece in part.chunk(batch.ghosts_per_batch)]
        optimizer.zero_grad()
        each = list[list[float]]()  # of each ghost batch, of each tensor: theta . gradient over the variance
        for number, piece in enumerate(pieces):
            inputs, labels = split.gather(piece)
            context.generator = make_generator(4, "noise", len(products), number if draw is NoisePer.ghost else 0)
            clean = [p.detach().clone() for p in context.parameters]
            with context:
                loss = F.cross_entropy(model(inputs), labels)
                gradients = torch.autograd.grad(loss, context.parameters, retain_graph=True)
                each.append(
                    [
                        float(((p.detach() - w).double() * g.double()).sum()) / variance
                        for p, w, g in zip(context.parameters, clean, gradients, strict=True)
                    ]
                )
                (loss / len(pieces)).backward()
        measured = each if draw is NoisePer.batch else each[:1]
        parts = [statistics.fmean(part) for part in zip(*measured, strict=True)]
        products.append(sum(parts))
        last_layer.append(sum(parts[-2:]))
        optimizer.step()
    [epoch] = found
    assert epoch["draws"] == len(products) == batch.updates_per_epoch(EXAMPLES)
    for numbers, (mean, error) in ((products, epoch["whole"]), (last_layer, epoch["layers"]["4"])):
        # In float32: rounding weighs more in the mean of estimates of either sign, 1e-5 instead of 1e-7.
        assert mean == pytest.approx(statistics.fmean(numbers), rel=1e-3)
        assert error == pytest.approx(statistics.stdev(numbers) / math.sqrt(len(numbers)), rel=1e-3)
    assert list(epoch["layers"]) == ["1", "4"]  # BatchNorm is left alone


@pytest.mark.parametrize("scaling", NoiseScaling)
def test_an_interrupted_training_has_the_curvature_of_an_unbroken_one(
    tiny_split: Splits, tmp_path: Path, scaling: NoiseScaling
) -> None:
    noise = NoiseConfig(0.1, scaling=scaling)
    unbroken = training(tiny_split, network(), noise).run()
    run = training(tiny_split, network(), noise)
    for number, _ in enumerate(run):
        if number == UPDATES + 1:
            checkpoint.save(tmp_path / "run.pt", run.state(), "digest")
            break
    resumed = training(tiny_split, network(), noise, resume=checkpoint.load(tmp_path / "run.pt", "digest")).run()
    assert resumed.curvature == unbroken.curvature
    assert len(unbroken.curvature) == 2


def test_measuring_leaves_the_training_as_it_is(tiny_split: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = training(tiny_split, network(), NoiseConfig(0.1)).run()
    unmeasured = training(tiny_split, network(), NoiseConfig(0.1))
    unmeasured._estimator.trace = None
    without = unmeasured.run()
    assert without.curvature == []
    assert same_bits(with_it.model, without.model)
    assert {**with_it.curves, "seconds": []} == {**without.curves, "seconds": []}


@pytest.mark.parametrize("noise", [NoiseConfig(), NoiseConfig(0.1, denoise=False), NoiseConfig(0.1, copies=2)])
def test_there_is_no_curvature_without_fresh_noise_that_is_taken_out_again(
    tiny_split: Splits, noise: NoiseConfig
) -> None:
    assert training(tiny_split, network(), noise).run().curvature == []


@pytest.mark.parametrize(("draw", "left"), [(NoisePer.ghost, 16), (NoisePer.batch, 1)])
@pytest.mark.parametrize("ghosts", [1, 16])
def test_noise_that_stays_in_is_added_once_a_draw(tiny_split: Splits, draw: NoisePer, left: int, ghosts: int) -> None:
    """One update too small to move a weight: its noise is left, U(-a, a) or the sum of 16 such, by hand."""
    a, left = 0.1, min(left, ghosts)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 200), nn.Linear(200, 3))
    wanted = copy.deepcopy(model)
    before = [p.detach().clone() for p in model.parameters()]
    for ghost in range(left):
        with SmoothOut(wanted, a, denoise=False, generator=make_generator(4, "noise", 0, ghost)):
            pass
    settings = {"optimizer": SGD(1e-30, momentum=0.0), "schedule": Schedule(1), "batch": Batch(32, 32 // ghosts)}
    noise = NoiseConfig(a, denoise=False, noise_per=draw)
    Trainer(model, tiny_split(32), tiny_split(4), method=noise, seed=4, **settings).run()
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), wanted.parameters(), strict=True))
    moved = torch.cat([(p.detach() - w).flatten() for p, w in zip(model.parameters(), before, strict=True)])
    assert moved.std().item() == pytest.approx(a * math.sqrt(left / 3), rel=0.05)  # 4003 numbers: 1% or 2%
