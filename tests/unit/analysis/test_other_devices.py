"""Analyses of a network on another device: the CPU's numbers, few copies and waits, float64 only where it has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.other_device import DEVICE, OtherDevice, Remote, moved_batches
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis import device_memory, noise_sensitivity
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.box import box_around
from smoothout.analysis.box_search import BoxObjective
from smoothout.analysis.hessian import HessianVectorProduct, hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.interpolation import interpolate
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.models import FIRST_PASSES
from smoothout.analysis.noise_sensitivity import noise_curve
from smoothout.analysis.options import Convention, RunningStats
from smoothout.analysis.search_comparison import compare_searches
from smoothout.analysis.sharpness import sharpness
from smoothout.common.rng import make_generator
from smoothout.nn import parameters
from smoothout.nn.evaluation import evaluate
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.noise_strength import relative_noise_strength

CPU = torch.device("cpu")
Data = list[tuple[Tensor, Tensor]]
Analysis = Callable[[nn.Module, nn.Module, Data], Any]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))
    model(torch.randn(30, 5))  # running statistics that are not the defaults
    return model.eval()


def examples() -> Data:
    generator = torch.Generator().manual_seed(4)
    sizes = (12, 12, 5)
    return [(torch.randn(n, 5, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


@pytest.fixture(autouse=True)
def drawn_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is not there has no generator."""
    monkeypatch.setattr(noise_sensitivity, "make_generator", lambda *address, **_: make_generator(*address))


@pytest.fixture(params=["room", "no room", "no float64"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherDevice]:
    """A device with float64 and room for vectors, one without the room, one without float64."""
    monkeypatch.setattr(device_memory, "free_memory", lambda device: 0.0 if request.param == "no room" else math.inf)
    if request.param == "no float64":
        monkeypatch.setattr(parameters, "has_float64", lambda device: device.type == "cpu")
    with OtherDevice(float64=request.param != "no float64") as mode:
        yield mode


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherDevice]:
    monkeypatch.setattr(device_memory, "free_memory", lambda device: math.inf)
    with OtherDevice() as mode:
        yield mode


ANALYSES: dict[str, Analysis] = {
    **{
        f"sharpness {convention}": lambda model, _, data, convention=convention: sharpness(
            model, data, F.cross_entropy, convention=convention, iterations=3, repeats=2
        )
        for convention in Convention
    },
    "sharpness in a subspace": lambda model, _, data: sharpness(model, data, F.cross_entropy, subspace=4, iterations=3),
    "adaptive sharpness": lambda model, _, data: adaptive_sharpness(model, data, F.cross_entropy, 0.01, norm="l2"),
    "atlas": lambda model, _, data: compare_searches(
        model, data, data[:1], F.cross_entropy, subspace=3, budget=9, iterations=2
    ),
    "eigenvalues": lambda model, _, data: top_eigenvalues(model, data, F.cross_entropy, 2),
    "all eigenvalues of a block": lambda model, _, data: top_eigenvalues(model, data, F.cross_entropy, 2, block="1"),
    "trace and norm": lambda model, _, data: trace_and_norm(model, data, F.cross_entropy, probes=3),
    "spectrum": lambda model, _, data: hessian_spectrum(model, data, F.cross_entropy, probes=2, steps=6),
    **{
        f"interpolation, {stats} statistics": lambda model, other, data, stats=stats: interpolate(
            model, other, data, [-1.0, 0.3, 1.0], running_stats=stats, running_stats_from=data
        )
        for stats in RunningStats
    },
    "interpolation of a loss": lambda model, other, data: repr(
        interpolate(model, other, data, [0.3], loss=F.cross_entropy)
    ),
    "landscape": lambda model, _, data: landscape_line(model, data, [-1.0, 0.5], directions=2),
    "plane": lambda model, _, data: landscape_plane(model, data, [-1.0, 0.5], [0.2]),
    "evaluation": lambda model, _, data: evaluate(model, data),
    "relative strength": lambda model, _, data: relative_noise_strength(
        model, NoiseConfig(0.1, scaling="weight"), 0, 10
    ),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_gives_the_cpus_numbers_on_any_device(name: str, device: OtherDevice) -> None:
    models = network(1), network(2)
    expected = ANALYSES[name](*models, examples())
    away = [device.moved(model) for model in (network(1), network(2))]
    before = [bytes(p.inner.numpy()) for p in away[0].state_dict().values()]
    assert ANALYSES[name](*away, moved_batches(examples())) == expected
    assert [bytes(p.inner.numpy()) for p in away[0].state_dict().values()] == before


@pytest.mark.parametrize(
    "name", ["sharpness keskar", "trace and norm", "interpolation, recomputed statistics", "plane"]
)
def test_batches_are_moved_to_the_model(name: str, remote: OtherDevice) -> None:
    expected = ANALYSES[name](network(1), network(2), examples())
    assert ANALYSES[name](remote.moved(network(1)), remote.moved(network(2)), examples()) == expected


def test_a_noise_curve_needs_no_float64_of_a_device(device: OtherDevice) -> None:
    points = noise_curve(device.moved(network(1)), moved_batches(examples()), [0.0, 0.1], draws=2)
    assert points[0][1:3] == pytest.approx(evaluate(network(1), examples()))
    assert points[1].loss != points[0].loss


# copies and waits an evaluation


def used(device: OtherDevice, work: Callable[[], Any]) -> tuple[int, int, int]:
    """Copies there, copies back and waits of a second call of ``work``."""
    work()
    device.counts.clear()
    work()
    return device.counts["there"], device.counts["back"], device.counts["waits"]


def test_a_point_of_a_box_takes_one_copy_each_way(remote: OtherDevice) -> None:
    model = remote.moved(network(1))
    with preserve_state(model):
        box = box_around(parameters_to_vector(trainable_parameters(model)), 5e-4)
        objective = BoxObjective(model, moved_batches(examples()), F.cross_entropy, box, lambda: None)
        x = objective.evaluate_center()
        on_the_cpu = torch.full(x.z.shape, 0.5, dtype=torch.float64)
        there = Remote(on_the_cpu.clone())
        for _ in range(FIRST_PASSES):  # after these, nothing looks at whether passes rewrite weights
            objective(there)
        assert used(remote, lambda: objective(there)) == (0, 1, 1)
        assert used(remote, lambda: objective(on_the_cpu)) == (1, 1, 2)
        point = objective(on_the_cpu)
        assert {point.z.device, point.gradient.device, x.gradient.device} == {DEVICE}


@pytest.mark.parametrize("convention", ["keskar", "converged"])
def test_a_search_waits_three_times_an_evaluation_at_most(convention: str, remote: OtherDevice) -> None:
    """Beyond what it needs to begin and to end, which is as much for three iterations as for seven."""
    model, data, found = remote.moved(network(1)), moved_batches(examples()), []
    for iterations in (3, 7):
        remote.counts.clear()
        result = sharpness(model, data, F.cross_entropy, convention=convention, iterations=iterations, eps=0.01)
        found.append((result.evaluations, remote.counts["waits"], remote.counts["there"]))
    (few, waits_of_few, copies_of_few), (many, waits, copies) = found
    assert many > few
    assert waits - waits_of_few <= 3 * (many - few)
    assert copies - copies_of_few <= many - few


def test_a_product_with_the_hessian_takes_one_copy_each_way(remote: OtherDevice) -> None:
    product = HessianVectorProduct(remote.moved(network(1)), moved_batches(examples()), F.cross_entropy)
    vector = torch.ones(product.dimension, dtype=torch.float64)
    there = Remote(vector.clone())
    # And one back that tells whether the kept graph still belongs to the weights
    assert used(remote, lambda: product(vector)) == (1, 2, 3)
    assert used(remote, lambda: product(there)) == (0, 1, 2)
    assert (product(vector).device, product(there).device) == (CPU, DEVICE)


@pytest.mark.parametrize("work", [hessian_spectrum, trace_and_norm])
def test_a_step_of_lanczos_and_a_probe_wait_four_times(work: Callable[..., Any], remote: OtherDevice) -> None:
    name = {hessian_spectrum: "steps", trace_and_norm: "probes"}[work]
    model, data, waits = remote.moved(network(1)), moved_batches(examples()), []
    for number in (2, 6):
        remote.counts.clear()
        work(model, data, F.cross_entropy, **{"probes": 1, name: number})
        waits.append(remote.counts["waits"])
    assert waits[1] - waits[0] <= 4 * 4, "two for the product, and two for the numbers that are made of it"


def test_an_evaluation_waits_once_however_many_batches_there_are(remote: OtherDevice) -> None:
    model, data = remote.moved(network(1)), moved_batches(examples())
    assert used(remote, lambda: evaluate(model, data)) == (0, 1, 1)


@pytest.mark.parametrize(
    ("curve", "most"),
    [
        (lambda model, _, data, alphas: landscape_line(model, data, alphas), 1),
        (lambda model, _, data, alphas: landscape_line(model, data, alphas, directions=given(model)), 1),
        (interpolate, 2),
        (lambda model, _, data, alphas: noise_curve(model, data, [0.01 + a for a in alphas]), 1),
    ],
    ids=["landscape", "directions from the host", "interpolation", "noise curve"],
)
def test_a_point_of_a_curve_waits_for_its_numbers_alone(curve: Any, most: int, remote: OtherDevice) -> None:
    models, data, counts = [remote.moved(network(seed)) for seed in (1, 2)], moved_batches(examples()), []
    for alphas in ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]):
        counts.append(used(remote, lambda alphas=alphas: curve(*models, data, alphas)))
    (there, _, waits), (there_of_more, _, waits_of_more) = counts
    assert there_of_more == there
    assert waits_of_more - waits == 3 * most


def given(model: nn.Module) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(p.shape, generator=generator) for p in trainable_parameters(model)]]


# where vectors are kept, and how large batches are


def test_vectors_stay_where_they_take_less_than_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtherDevice():
        weights = [Remote(torch.zeros(10, 9)), Remote(torch.zeros(10))]
    for free, expected in ((16 * 5 * 100, CPU), (16 * 5 * 100 + 1, DEVICE)):
        monkeypatch.setattr(device_memory, "free_memory", lambda device, free=free: free)
        assert device_memory.vectors_device(weights, 5) == expected
    assert device_memory.vectors_device([weights[0], torch.zeros(3)], 1) == CPU
    monkeypatch.setattr(parameters, "has_float64", lambda device: False)
    monkeypatch.setattr(device_memory, "free_memory", lambda device: math.inf)
    assert device_memory.vectors_device(weights, 1) == CPU


class Split(nn.Module):
    """Two layers on two devices."""

    def __init__(self, device: OtherDevice) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.here, self.there = nn.Linear(5, 4), device.moved(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.there(torch.tanh(self.here(x)).to(DEVICE))
        return outputs.cpu()


@pytest.mark.parametrize(
    "measured",
    [
        lambda *given: sharpness(*given).value,
        lambda *given: top_eigenvalues(*given).values[0],
        lambda model, batches, loss: noise_curve(model, batches, [0.0], loss=loss)[0].loss,
    ],
)
def test_a_model_may_lie_on_two_devices(measured: Callable[..., float], device: OtherDevice) -> None:
    batches = examples()
    here, split = Split(device), Split(device)
    here.there, here.forward = nn.Linear(4, 3), lambda x: here.there(torch.tanh(here.here(x)))
    here.there.load_state_dict({name: entry.inner for name, entry in split.there.state_dict().items()})
    expected = measured(here, batches, F.cross_entropy)
    with device:
        assert measured(split, batches, F.cross_entropy) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
def test_torchs_default_dtype_changes_no_bit(analysis: Analysis, dtype: torch.dtype) -> None:
    model, other, data = network(0), network(1), examples()
    expected = repr(analysis(model, other, data))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert repr(analysis(model, other, data)) == expected
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
def test_torchs_default_device_changes_no_bit(analysis: Analysis) -> None:
    model, other, data = network(0), network(1), examples()
    expected = repr(analysis(model, other, data))
    with torch.device("meta"):  # where nothing can be computed
        assert repr(analysis(model, other, data)) == expected
