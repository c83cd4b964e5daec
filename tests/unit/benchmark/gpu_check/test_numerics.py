"""The checks of numbers hold on a CPU, and fail when a fault is planted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from smoothout.benchmark.gpu_check import numerics
from smoothout.benchmark.gpu_check.networks import distance
from smoothout.common.rng import uniform_
from smoothout.nn import perturbation
from smoothout.nn.evaluation import EvalResult
from smoothout.nn.perturbation import SmoothOut

CPU = torch.device("cpu")


def test_sound_noise_holds() -> None:
    finding = numerics.noise_is_distributed(CPU)
    assert finding.passed, finding.text


@pytest.mark.parametrize(
    "fault",
    [
        lambda tensor, generator, a: uniform_(tensor, generator, 1.02 * a),
        lambda tensor, generator, a: uniform_(tensor, torch.Generator().manual_seed(0), a),
        lambda tensor, generator, a: uniform_(tensor, None, a),
    ],
    ids=["too strong", "every draw the same", "no draw of its address"],
)
def test_noise_of_another_distribution_fails(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "uniform_", fault)
    assert numerics.noise_is_distributed(CPU).passed is False


def test_noise_scales_to_filters_and_others_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = numerics.noise_scales_to_filters(CPU)
    assert finding.passed, finding.text
    monkeypatch.setattr(numerics, "AdaSmoothOut", SmoothOut)
    assert numerics.noise_scales_to_filters(CPU).passed is False


class LeavesABit(SmoothOut):
    """Restores the weights as if by subtraction."""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            self.parameters[0].view(-1)[0] *= 1 + 2.0**-23


class DoesNothing(SmoothOut):
    """Perturbs nothing."""

    def __enter__(self) -> SmoothOut:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def test_weights_are_restored() -> None:
    assert numerics.weights_are_restored(CPU).passed


@pytest.mark.parametrize("fault", [LeavesABit, DoesNothing])
def test_weights_that_do_not_come_back_fail(fault: type[SmoothOut], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "SmoothOut", fault)
    finding = numerics.weights_are_restored(CPU)
    assert finding.passed is False
    assert finding.text == f"not after {fault.__name__}"


def test_precisions_are_what_they_say() -> None:
    finding = numerics.precision_is_kept(CPU)
    assert finding.passed, finding.text


def test_a_training_and_analyses_equal_cpu_where_the_device_is_one() -> None:
    for check in (numerics.training_equals_cpu, numerics.analyses_equal_cpu):
        finding = check(CPU)
        assert finding.passed, finding.text


@pytest.mark.parametrize(
    "name", ["evaluate", "_gradient", "sharpness", "HessianVectorProduct"], ids=["loss", "gradient", "sharpness", "H v"]
)
def test_an_analysis_that_finds_something_else_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, when it is the device's turn."""
    sound, calls = getattr(numerics, name), list[int]()

    def fault(*arguments: Any, **settings: Any) -> Any:
        finding = sound(*arguments, **settings)
        calls.append(1)
        if len(calls) == 1:
            return finding
        if name == "evaluate":
            return EvalResult(finding.loss * 1.001, finding.accuracy)
        if name == "_gradient":
            return finding * 1.05
        if name == "sharpness":
            return type("Result", (), {"value": 1.1 * finding.value})
        return lambda v: finding(v) * 1.01

    monkeypatch.setattr(numerics, name, fault)
    assert numerics.analyses_equal_cpu(CPU).passed is False


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))


def test_the_distance_of_ends_is_a_share_of_the_way_the_worst_of_three_groups() -> None:
    start = network()
    one = {name: tensor + 4 for name, tensor in start.state_dict().items()}
    assert distance(one, one, start) == 0
    for name, share in (("1.num_batches_tracked", 0.25), ("1.running_mean", 0.125 / 2**0.5)):
        moved = dict(one)
        moved[name] = moved[name] + (1 if "num" in name else 0.5)
        assert distance(one, moved, start) == pytest.approx(share)
    weights = one | {"0.weight": one["0.weight"] * torch.nan}
    assert not distance(one, weights, start) < 1e9
    assert not distance(start.state_dict(), start.state_dict(), start) < 1e9, "nothing was trained"
