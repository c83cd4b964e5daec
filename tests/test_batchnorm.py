"""How BatchNorm layers start."""

from __future__ import annotations

import torch
from scipy import stats
from torch import nn

from smoothout.batchnorm import uniform_start
from smoothout.randomness import stream


def model() -> nn.Sequential:
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(7, affine=False)
    return nn.Sequential(nn.Conv2d(1, 2000, 1), nn.BatchNorm2d(2000), nn.Flatten(), nn.LayerNorm(7), plain)


def test_the_uniform_start_draws_batchnorms_weight_from_0_to_1() -> None:
    made = model()
    uniform_start(made, stream(0, "batchnorm"))
    weight = made[1].weight.detach()
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() <= 1
    assert stats.kstest(weight.numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert made[1].weight.requires_grad


def test_the_uniform_start_touches_nothing_else() -> None:
    before, made = model().state_dict(), model()
    uniform_start(made, stream(0, "batchnorm"))
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.weight"}


def test_the_uniform_start_comes_from_its_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        norms = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm3d(5))
        uniform_start(norms, stream(seed, "batchnorm"))
        drawn.append(torch.stack([norm.weight.detach() for norm in norms]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert torch.equal(torch.get_rng_state(), state)
