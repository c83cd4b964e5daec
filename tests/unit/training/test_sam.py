"""SAM against the same step written out by hand, and as one method of training among others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.trainer_cases import EXAMPLES, SIZE, network, run
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.common.rng import derive_seed, make_generator
from smoothout.data.split import Split
from smoothout.training.batch import Batch
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Adam, Epsilon, Optimizer
from smoothout.training.schedule import Schedule

Splits = Callable[..., Split]
RHO = 0.5


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))


def by_hand(model: nn.Module, split: Split, optimizer: Optimizer, batch: Batch) -> list[float]:
    """One epoch of Algorithm 1 for each ghost batch; returns the mean loss at the perturbed weights."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parameters, losses = list(model.parameters()), list[Tensor]()
    steps = optimizer.build(parameters)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    order = torch.randperm(EXAMPLES, generator=make_generator(0, "order", 0))
    for number, rows in enumerate(order.split(batch.examples_per_update)):
        total = [torch.zeros_like(p) for p in parameters]
        ghosts = batch.split(rows)
        for ghost, part in enumerate(ghosts):
            inputs, labels = split.gather(part)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            clean = [p.detach().clone() for p in parameters]
            torch.manual_seed(derive_seed(0, "dropout", number, ghost))
            ascent = torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)
            norm = torch.stack([g.norm() for g in ascent]).norm()
            statistics = [[b.clone() for b in m.buffers()] for m in norms]
            with torch.no_grad():
                for p, g in zip(parameters, ascent, strict=True):
                    p.add_(g * (RHO / (norm + 1e-12)))
            torch.manual_seed(derive_seed(0, "dropout", number, ghost))
            loss = F.cross_entropy(model(inputs), labels)
            descent = torch.autograd.grad(loss / len(ghosts), parameters)
            losses.append(loss.detach().double() * len(labels))
            with torch.no_grad():
                for p, w, t, g in zip(parameters, clean, total, descent, strict=True):
                    p.copy_(w)
                    t.add_(g)
                for m, before in zip(norms, statistics, strict=True):
                    for b, old in zip(m.buffers(), before, strict=True):
                        b.copy_(old)
        for p, t in zip(parameters, total, strict=True):
            p.grad = t
        if optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm)
        steps.step()
    return [float(sum(losses)) / EXAMPLES]


@pytest.mark.parametrize(
    ("model", "optimizer", "batch"),
    [
        (network, SGD(0.1, momentum=0.0), Batch(SIZE)),
        (network, SGD(0.1, weight_decay=0.1, clip_norm=0.2), Batch(SIZE, 2)),
        (network, Adam(0.01, weight_decay=0.1), Batch(SIZE, 3, 2)),
        (network, Adam(0.01, epsilon=Epsilon.uncorrected), Batch(SIZE, 3)),
        (lambda: network(batchnorm=False), SGD(0.1), Batch(SIZE, 4)),
        (lambda: network(dropout=0.5), SGD(0.1), Batch(SIZE, 3)),
        (convolutions, SGD(0.1, clip_norm=0.2), Batch(SIZE, 2)),
        (convolutions, Adam(0.01), Batch(SIZE)),
    ],
)
def test_an_epoch_of_sam_has_the_bits_of_the_steps_written_out_by_hand(
    model: Callable[[], nn.Module], optimizer: Optimizer, batch: Batch, tiny_split: Splits
) -> None:
    expected, split = model(), tiny_split(EXAMPLES)
    losses = by_hand(expected, split, optimizer, batch)
    settings: dict[str, Any] = {"optimizer": optimizer, "batch": batch, "schedule": Schedule(1)}
    end = run(model(), tiny_split, method=SAM(RHO), **settings)
    assert same_bits(end.model, expected.state_dict())
    assert end.curves["train_loss"] == pytest.approx(losses, rel=1e-12)
    plain = run(model(), tiny_split, method=NoiseConfig(), **settings)
    assert not torch.allclose(next(iter(end.model.values())), next(iter(plain.model.values())))


def test_a_parameter_without_a_gradient_stays(tiny_split: Splits) -> None:
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    assert torch.equal(run(model, tiny_split, method=SAM(RHO)).model["unused"], torch.ones(3))


@pytest.mark.parametrize("rho", [0.0, -0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match=r"^rho: .*above 0") as error:
        SAM(rho)
    assert str(rho) in str(error.value)


def test_sam_is_named_by_its_radius() -> None:
    assert SAM().slug == "sam0.05"
    assert SAM(0.1).canonicalized() == SAM(0.1) != SAM()
    assert SAM().relative_strength(network(), 0, 1) is None, "without a gradient there is no step"
