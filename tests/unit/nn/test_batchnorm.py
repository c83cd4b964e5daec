"""How BatchNorm layers start, and recomputed running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.common import same_bits
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from smoothout import SAM, SmoothOut, ghosted
from smoothout.common.rng import make_generator
from smoothout.nn.batchnorm import init_uniform_, recalibrate_batchnorm


def model() -> nn.Sequential:
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(7, affine=False)
    return nn.Sequential(nn.Conv2d(1, 2000, 1), nn.BatchNorm2d(2000), nn.Flatten(), nn.LayerNorm(7), plain)


def test_the_uniform_start_draws_batchnorms_weight_from_0_to_1() -> None:
    made = model()
    init_uniform_(made, make_generator(0, "batchnorm"))
    weight = made[1].weight.detach()
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() <= 1
    assert stats.kstest(weight.numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert made[1].weight.requires_grad


def test_the_uniform_start_comes_from_its_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        norms = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm3d(5))
        init_uniform_(norms, make_generator(seed, "batchnorm"))
        drawn.append(torch.stack([norm.weight.detach() for norm in norms]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def deep() -> nn.Sequential:
    """Two BatchNorm layers with running statistics from elsewhere, one without any, and dropout."""
    made = nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.Dropout(0.5),
        nn.Linear(6, 3),
        nn.BatchNorm1d(3, momentum=0.3),
        nn.BatchNorm1d(3, track_running_stats=False),
    ).double()
    for _ in range(3):
        made(torch.randn(8, 4, dtype=torch.float64) * 5)
    return made


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """In float64: BatchNorm magnifies what rounding does to two examples that lie close together."""
    return [(torch.randn(n, 4, dtype=torch.float64), torch.zeros(n)) for n in (9, 5, 2)]


def test_recomputed_statistics_are_the_mean_of_the_batches_own_statistics(deep, batches) -> None:
    first, second = [], []
    for x, _ in batches:
        h = deep[0](x)
        first.append((h.mean(0), h.var(0)))  # var: unbiased
        h = deep[3](F.batch_norm(h, None, None, deep[1].weight, deep[1].bias, training=True))
        second.append((h.mean(0), h.var(0)))
    recalibrate_batchnorm(deep, batches)
    for layer, statistics in ((deep[1], first), (deep[4], second)):
        means, variances = (torch.stack(column).mean(0) for column in zip(*statistics, strict=True))
        torch.testing.assert_close(layer.running_mean, means)
        torch.testing.assert_close(layer.running_var, variances)
        assert layer.num_batches_tracked == 3


def test_recomputing_leaves_parameters_momenta_and_modes_also_after_an_exception(deep, batches) -> None:
    deep.eval()
    deep[3].train()
    parameters = [p.detach().clone() for p in deep.parameters()]
    recalibrate_batchnorm(deep, batches)
    again = [deep[1].running_var.clone(), deep[4].running_var.clone()]
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate_batchnorm(deep, [*batches, (torch.randn(1, 4, dtype=torch.float64), torch.zeros(1))])
    assert all(torch.equal(p, old) for p, old in zip(deep.parameters(), parameters, strict=True))
    assert (deep[1].momentum, deep[4].momentum) == (0.1, 0.3)
    assert [m.training for m in deep] == [False, False, False, True, False, False]
    recalibrate_batchnorm(deep, batches)
    assert torch.equal(deep[1].running_var, again[0])
    assert torch.equal(deep[4].running_var, again[1])


class PerFeature(_BatchNorm):
    """A BatchNorm layer of one's own."""

    def _check_input_dim(self, inputs: torch.Tensor) -> None:
        assert inputs.dim() == 2


def test_a_batchnorm_layer_of_ones_own_counts_as_one() -> None:
    model, batch = nn.Sequential(nn.Linear(4, 6), PerFeature(6)), (torch.randn(8, 4), torch.zeros(8))
    assert len(SmoothOut(model, 0.1).parameters) == 2
    for block in SAM(model, statistics_from="clean"):
        with block:
            model(batch[0]).sum().backward()
    assert model[1].num_batches_tracked == 1
    recalibrate_batchnorm(model, [batch] * 3)
    assert model[1].num_batches_tracked == 3
    torch.testing.assert_close(model[1].running_mean, model[0](batch[0]).mean(0).detach())


def test_instance_normalization_does_not_count_as_batchnorm() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.InstanceNorm1d(2, affine=True, track_running_stats=True))
    inputs = torch.randn(8, 2, 5)
    assert len(SmoothOut(model, 0.1).parameters) == 4
    means = [model[1].running_mean.clone()]
    for block in SAM(model, statistics_from="clean"):
        with block:
            model(inputs).square().sum().backward()
        means.append(model[1].running_mean.clone())
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(means[1], means[2])
    recalibrate_batchnorm(model, [(inputs, torch.zeros(8))])
    assert torch.equal(model[1].running_mean, means[2])


def test_a_layer_that_no_batch_reaches_keeps_its_statistics_and_a_frozen_one_does_not(deep, batches) -> None:
    deep.unused = nn.Sequential(nn.BatchNorm1d(3))
    deep.unused.forward = lambda inputs: inputs  # type: ignore[method-assign]
    deep.unused[0].running_mean.fill_(3.0)
    deep[1].eval()
    unused, frozen = copy.deepcopy(deep.unused.state_dict()), deep[1].running_mean.clone()
    recalibrate_batchnorm(deep, batches)
    assert same_bits(deep.unused.state_dict(), unused)
    assert not torch.equal(deep[1].running_mean, frozen)
    assert not deep[1].training


def test_an_error_in_the_first_batch_leaves_layers_that_it_did_not_reach(deep) -> None:
    before = copy.deepcopy(deep[4].state_dict())
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate_batchnorm(deep, [(torch.randn(1, 4, dtype=torch.float64), torch.zeros(1))])
    assert same_bits(deep[4].state_dict(), before)


def test_a_layer_that_is_used_twice_averages_over_its_calls_as_torch_does() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(3 * self.norm(inputs) + 1)
            return out

    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, generator=generator), torch.zeros(4)) for _ in range(3)]
    expected, found = Twice(), Twice()
    expected.norm.momentum = None  # torch's word for a plain mean over all calls
    for inputs, _ in batches:
        expected(inputs)
    recalibrate_batchnorm(found, batches)
    assert same_bits(dict(found.named_buffers()), dict(expected.named_buffers()))
    assert found.norm.num_batches_tracked == 6


def test_recomputed_statistics_within_ghosted_are_the_mean_over_ghost_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=0.3))
    batches = [(torch.randn(8, 4) + i, torch.zeros(8)) for i in range(3)]
    recalibrate_batchnorm(model, [(half, half) for x, _ in batches for half in x.split(4)])
    wanted = copy.deepcopy(model.state_dict())
    with ghosted(model, 2):
        recalibrate_batchnorm(model, batches)
    torch.testing.assert_close(model[1].running_mean, wanted["1.running_mean"])
    torch.testing.assert_close(model[1].running_var, wanted["1.running_var"])
    assert model[1].momentum == 0.3


@pytest.mark.parametrize("ghosts", [1, 2])
def test_empty_batches_do_not_count_in_recomputed_statistics(ghosts: int) -> None:
    torch.manual_seed(0)
    layer, labels = nn.Sequential(nn.BatchNorm1d(2)), torch.zeros(8, dtype=torch.long)
    first, second = torch.randn(8, 2) + 4, torch.randn(8, 2)
    found = []
    for batches in ([first, second], [first[:0], first, first[:0], second]):
        with ghosted(layer, ghosts):
            recalibrate_batchnorm(layer, [(x, labels[: len(x)]) for x in batches])
        found.append(layer[0].running_mean.clone())
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="there must be at least one"):
        recalibrate_batchnorm(layer, [(first[:0], labels[:0])])
