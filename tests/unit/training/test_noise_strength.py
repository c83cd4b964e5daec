"""The noise relative to the weights: closed forms, draws, and the ends of a schedule."""

from __future__ import annotations

import copy
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_jobs import workplace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from smoothout.config.experiment import Experiment
from smoothout.data.datasets import DatasetName
from smoothout.data.image_arrays import ImageArrays
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import init_model, prepare_run
from smoothout.jobs.runner import get_or_run
from smoothout.models.mlp import MLP
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.nn.parameters import filter_norms
from smoothout.nn.perturbation import SmoothOut
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule
from smoothout.training.noise_strength import batch_gradient, relative_noise_strength
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 7), nn.Linear(7, 3)
    )


def norms(model: nn.Module) -> list[tuple[int, float]]:
    """For every filter: how many numbers it has, and its norm, one by one."""
    return [
        (rows[0].numel(), math.sqrt(sum(x * x for x in row.flatten().tolist())))
        for rows in model.state_dict().values()
        if rows.dim() > 1
        for row in rows
    ]


@pytest.mark.parametrize(
    ("law", "deviation"), [(NoiseDistribution.uniform, 1 / math.sqrt(3)), (NoiseDistribution.gaussian, 1.0)]
)
@pytest.mark.parametrize("batchnorm", [False, True])
def test_it_is_the_median_of_the_expected_lengths_over_the_norms(
    law: NoiseDistribution, deviation: float, batchnorm: bool
) -> None:
    model = network()  # 5 + 7 + 3 filters: an odd number has one median
    wanted = statistics.median(0.03 * deviation * math.sqrt(d) / norm for d, norm in norms(model))
    noise = NoiseConfig(0.03, law, batchnorm=batchnorm)
    assert relative_noise_strength(model, noise, 0, 1) == pytest.approx(wanted, rel=1e-6)


def test_it_is_what_draws_of_the_noise_come_to() -> None:
    model = network()
    noise = NoiseConfig(0.05)
    context = SmoothOut(model, 0.05, generator=torch.Generator().manual_seed(0))
    filters = [p for p in context.parameters if p.dim() > 1]
    squares = [torch.zeros(len(p)) for p in filters]
    for _ in range(2000):
        with context:
            for total, theta in zip(squares, (t for t in context.current_noise() if t.dim() > 1), strict=True):
                total.add_(filter_norms(theta).flatten() ** 2 / 2000)
    ratios = [s.sqrt() / filter_norms(p).flatten() for s, p in zip(squares, filters, strict=True)]
    assert relative_noise_strength(model, noise, 0, 1) == pytest.approx(float(torch.cat(ratios).median()), rel=0.02)


@given(st.floats(1e-3, 10), st.sampled_from(list(NoiseDistribution)), st.floats(1e-3, 1e3))
def test_adasmoothouts_is_its_own_strength_whatever_the_weights(a: float, law: NoiseDistribution, size: float) -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    found = relative_noise_strength(model, NoiseConfig(a, law, scaling=NoiseScaling.filter), 0, 1)
    assert found == pytest.approx(a, rel=1e-9)


@pytest.mark.parametrize(
    ("law", "deviation"), [(NoiseDistribution.uniform, 1 / math.sqrt(3)), (NoiseDistribution.gaussian, 1.0)]
)
def test_noise_relative_to_each_weight_has_its_deviation(law: NoiseDistribution, deviation: float) -> None:
    found = relative_noise_strength(network(), NoiseConfig(0.2, law, scaling=NoiseScaling.weight), 0, 1)
    assert found == pytest.approx(0.2 * deviation, rel=1e-9)


@pytest.mark.parametrize("scaling", list(NoiseScaling))
def test_neither_biases_nor_filters_of_zeros_count(scaling: NoiseScaling) -> None:
    model, noise = network(), NoiseConfig(0.1, scaling=scaling, batchnorm=True)
    before = relative_noise_strength(model, noise, 0, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.zero_()
    assert relative_noise_strength(model, noise, 0, 1) == before
    lengths = sorted(norm / math.sqrt(d) for d, norm in norms(model))
    with torch.no_grad():
        for weight in model.parameters():
            for row in weight if weight.dim() > 1 else ():
                if float(row.norm()) / math.sqrt(row.numel()) < (lengths[7] + lengths[8]) / 2:
                    row.zero_()
    found = relative_noise_strength(model, noise, 0, 1)
    wanted = 0.1 / math.sqrt(3) / lengths[11] if scaling is NoiseScaling.none else before
    assert found == pytest.approx(wanted, rel=1e-5), "of the seven that are left, the middle one"


def test_it_is_nan_where_a_weight_is_and_where_no_filter_is_left() -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = math.nan
    assert math.isnan(relative_noise_strength(model, NoiseConfig(0.1), 0, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert math.isnan(relative_noise_strength(model, NoiseConfig(0.1), 0, 1))
    assert math.isnan(relative_noise_strength(nn.BatchNorm1d(3), NoiseConfig(0.1, batchnorm=True), 0, 1))


def test_the_gradient_of_a_batch_has_the_batchs_statistics_and_no_dropout() -> None:
    torch.manual_seed(0)
    norm, dropout = nn.BatchNorm1d(8), nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(4, 8), norm, dropout, nn.Linear(8, 3)).double()
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(100.0)
    before = copy.deepcopy(model.state_dict())
    inputs, labels = torch.randn(32, 4, dtype=torch.float64), torch.randint(3, (32,))
    found = batch_gradient(model, inputs, labels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert norm.training
    assert norm.track_running_stats
    dropout.eval()
    wanted = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    torch.testing.assert_close(found, list(wanted), rtol=1e-12, atol=1e-12)


# In a training's record


def trained(**changes: Any) -> Job:
    settings = {"optimizer": Adam(0.01), "schedule": Schedule(2), "method": NoiseConfig(0.05), **changes}
    return Job(Experiment(MLP(16, 2), ImageArrays(DatasetName.digits, (0.5,), (0.5,)), batch=Batch(128), **settings))


def test_a_record_has_it_at_the_first_and_at_the_last_weights(tmp_path: Path) -> None:
    noise, updates = NoiseConfig(0.05, strength_schedule=StrengthSchedule.tanh_falling), 12
    job = trained(method=noise)
    found = get_or_run(job, workplace(tmp_path)).outcome["relative_strength"]
    model = init_model(job.settings, workplace(tmp_path))
    assert found["start"] == relative_noise_strength(model, noise, 0, 2 * updates)
    snapshot = prepare_run(job, workplace(tmp_path)).state
    assert snapshot is not None
    model.load_state_dict(snapshot.model)
    assert found["end"] == relative_noise_strength(model, noise, 2 * updates - 1, 2 * updates)
    assert found["end"] < found["start"] / 100
