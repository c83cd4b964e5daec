"""Noise: its laws and scalings against their closed forms, its settings, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.common import FALSE_ALARM, SIGMAS
from helpers.noise_cases import LAWS, network, seeded, thetas
from scipy import stats
from torch import nn

from smoothout import AdaSmoothOut, SmoothOut, SmoothOutCopies
from smoothout.nn.options import NoiseScaling
from smoothout.nn.parameters import filter_norms
from smoothout.nn.perturbation import filter_normalize_
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule, strength_factor

# The laws


def test_uniform_noise_stays_within_its_strength_and_fills_it() -> None:
    a = 0.0375
    [theta, _] = thetas(SmoothOut(nn.Linear(200, 200), a))
    assert theta.abs().max() <= torch.tensor(a)
    assert theta.abs().max() > 0.999 * a
    assert stats.kstest(theta.flatten().numpy(), stats.uniform(-a, 2 * a).cdf).pvalue > FALSE_ALARM


def test_gaussian_noise_has_its_strength_as_standard_deviation() -> None:
    a, n = 0.025, 200 * 200
    [theta, _] = thetas(SmoothOut(nn.Linear(200, 200), a, "gaussian"))
    x = theta.double().flatten() / a
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((x**power).mean()) - mean) < SIGMAS * math.sqrt(variance / n)
    assert stats.kstest(x.numpy(), stats.norm.cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("law", "cdf"), [("uniform", stats.uniform(-1, 2).cdf), ("gaussian", stats.norm.cdf)])
def test_weight_scaling_makes_the_noise_a_share_of_each_weight(law: str, cdf: Callable[[Any], Any]) -> None:
    model = nn.Linear(200, 200)
    with torch.no_grad():
        model.bias.zero_()
    a = 0.15
    [theta, bias] = thetas(SmoothOut(model, a, law, scaling="weight"))
    assert stats.kstest((theta / (a * model.weight.abs())).detach().flatten().numpy(), cdf).pvalue > FALSE_ALARM
    assert not bias.any()
    if law == "uniform":
        assert (theta.abs() <= a * model.weight.abs() * (1 + 1e-6)).all()


@pytest.mark.parametrize("law", LAWS)
def test_adasmoothouts_noise_has_in_every_filter_the_length_a_times_the_filters(law: str) -> None:
    a = 0.15
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Linear(50, 20), nn.ConvTranspose2d(4, 6, 3), nn.Conv1d(8, 4, 3))
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-3, 3, 16).view(-1, 1, 1, 1))
        model[1].weight[4] = 0
    found = thetas(AdaSmoothOut(model, a, law))
    for theta, weight in zip(found, model.parameters(), strict=True):
        if weight.dim() > 1:
            lengths = [float(one.double().norm()) for one in theta]
            wanted = [a * float(one.detach().double().norm()) for one in weight]
            assert lengths == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_adasmoothouts_noise_on_a_bias_is_plus_or_minus_a_share_of_it(law: str) -> None:
    """The released program on b = (0.3, -0.2, 0, 1) with a = 0.15 gives (+-0.045, +-0.03, 0, +-0.15)."""
    model = nn.Linear(1, 4)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.3, -0.2, 0.0, 1.0]))
    context = AdaSmoothOut(model, 0.15, law)
    drawn = torch.stack([thetas(context)[1] for _ in range(400)])
    wanted = torch.tensor([0.045, 0.03, 0.0, 0.15])
    # But for the 1e-6 that is added to the length of a draw, here of its one number.
    torch.testing.assert_close(drawn.abs().median(0).values, wanted, rtol=1e-5, atol=0)
    assert (drawn.abs() <= wanted * (1 + 1e-6)).all()
    for place in (0, 1, 3):
        heads = int((drawn[:, place] > 0).sum())
        assert abs(heads - 200) < SIGMAS * 10  # 10 is the standard deviation of 400 fair coins


def test_adasmoothout_has_the_strength_of_the_weights_as_they_are_at_each_entry() -> None:
    model = nn.Linear(50, 4, bias=False)
    context = AdaSmoothOut(model, 0.15)
    for factor in (1.0, 10.0, 0.0):
        with torch.no_grad():
            model.weight.fill_(factor)
        norms = filter_norms(thetas(context)[0]).flatten()
        assert norms.tolist() == pytest.approx([0.15 * factor * math.sqrt(50)] * 4, rel=1e-4)


def test_adasmoothout_is_smoothout_scaled_by_filters() -> None:
    model = network()
    one = thetas(AdaSmoothOut(model, 0.15, "gaussian", batchnorm=True, generator=seeded(1)))
    other = thetas(SmoothOut(model, 0.15, "gaussian", scaling="filter", batchnorm=True, generator=seeded(1)))
    assert len(one) == 6
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_scaling_to_filters_is_equation_12_entry_by_entry() -> None:
    weight, direction = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(3, 2, 2, dtype=torch.float64)
    wanted = torch.empty_like(weight)
    for i in range(3):
        for j in range(2):
            for k in range(2):
                wanted[i, j, k] = 0.2 * direction[i, j, k] * weight[i].norm() / (direction[i].norm() + 1e-6)
    given = direction.clone()
    assert filter_normalize_(given, weight, 0.2) is given
    torch.testing.assert_close(given, wanted)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"a": -0.1}, "^a: .*-0.1"),
        ({"a": math.nan}, "^a: .*nan"),
        ({"a": math.inf}, "^a: .*inf"),
        ({"law": "cauchy"}, "^distribution: 'cauchy' is not one of uniform, gaussian"),
        ({"scaling": "layer"}, "^scaling: 'layer' is not one of none, weight, filter"),
        ({"model": nn.Linear(1, 1).requires_grad_(False)}, "^the model has no trainable parameters"),
        ({"model": nn.BatchNorm1d(1)}, "^the model has no trainable parameters outside BatchNorm"),
    ],
)
def test_smoothout_names_the_argument_that_it_refuses(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        SmoothOut(**{"model": nn.Linear(1, 1), "a": 0.1, **arguments})


def test_copies_are_of_a_context_that_takes_its_noise_out_again() -> None:
    with pytest.raises(ValueError, match=r"^context: copies share one w, .* denoise=True$"):
        SmoothOutCopies(SmoothOut(nn.Linear(1, 1), 0.1, denoise=False), 4)
    with pytest.raises(TypeError, match=r"^context: must be a SmoothOut\(model, a\), not a Linear$"):
        SmoothOutCopies(nn.Linear(1, 1), 4)  # type: ignore[arg-type]


# Settings


@pytest.mark.parametrize(
    ("noise", "slug"),
    [
        (NoiseConfig(), "baseline"),
        (NoiseConfig(0.0375), "smoothout0.0375"),
        (NoiseConfig(0.15, scaling=NoiseScaling.filter), "adasmoothout0.15"),
        (NoiseConfig(0.1, scaling=NoiseScaling.weight), "weightsmoothout0.1"),
    ],
)
def test_noise_has_a_short_name(noise: NoiseConfig, slug: str) -> None:
    assert noise.slug == slug


@pytest.mark.parametrize(
    ("course", "step", "total", "factor"),
    [
        (StrengthSchedule.constant, 0, 10, 1.0),
        (StrengthSchedule.constant, 10, 10, 1.0),
        (StrengthSchedule.anneal, 0, 10, 1.0),
        (StrengthSchedule.anneal, 1, 10, 0.826),
        (StrengthSchedule.anneal, 100, 1000, 0.281),
        (StrengthSchedule.anneal, 1000, 1000, 0.150),
        (StrengthSchedule.anneal, 39200, 40000, 0.055),
        (StrengthSchedule.tanh_rising, 0, 200, 1 / (1 + math.exp(10))),
        (StrengthSchedule.tanh_rising, 50, 200, 1 / (1 + math.exp(5))),
        (StrengthSchedule.tanh_rising, 100, 200, 0.5),
        (StrengthSchedule.tanh_rising, 120, 200, 1 / (1 + math.exp(-2))),
        (StrengthSchedule.tanh_rising, 200, 200, 1 / (1 + math.exp(-10))),
        (StrengthSchedule.tanh_falling, 0, 200, 1 / (1 + math.exp(-10))),
        (StrengthSchedule.tanh_falling, 100, 200, 0.5),
        (StrengthSchedule.tanh_falling, 120, 200, 1 / (1 + math.exp(2))),
        (StrengthSchedule.tanh_falling, 200, 200, 1 / (1 + math.exp(10))),
    ],
)
def test_the_strength_follows_the_released_programs_courses(
    course: StrengthSchedule, step: int, total: int, factor: float
) -> None:
    tolerance = {"abs": 5e-4} if course is StrengthSchedule.anneal else {"rel": 1e-9}
    assert strength_factor(course, step, total) == pytest.approx(factor, **tolerance)
    assert NoiseConfig(0.2, strength_schedule=course).strength_at(step, total) == pytest.approx(
        0.2 * factor, **tolerance
    )
