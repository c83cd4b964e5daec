"""The way through two networks: its ends are the networks, its middle is what the formula says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers.common import approx_loss
from torch import nn

from smoothout import interpolate
from smoothout.analysis.interpolation import curvilinear, iterate_path
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.evaluation import evaluate


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    for _ in range(3):
        model(torch.randn(16, 4) * (1 + seed))
    return model.eval()


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(7, 4), torch.randint(0, 3, (7,))) for _ in range(3)]


def test_the_ends_of_the_line_are_the_two_networks_own_numbers_exactly(batches):
    first, second = network(0), network(1)
    points = interpolate(first, second, batches, [0.0, 1.0])
    assert (points[0].loss, points[0].accuracy) == evaluate(first, batches)
    assert (points[1].loss, points[1].accuracy) == evaluate(second, batches)


def test_a_point_between_is_the_network_with_every_tensor_of_the_state_dict_in_between(batches):
    first, second, between = network(0), network(1), network(2)
    a, b = first.state_dict(), second.state_dict()
    between.load_state_dict({k: 0.7 * a[k] + 0.3 * b[k] if a[k].is_floating_point() else a[k] for k in a})
    point = interpolate(first, second, batches, [0.3])[0]
    expected = evaluate(between, batches)
    assert point.loss == approx_loss(expected.loss)
    assert point.accuracy == expected.accuracy


def test_a_linear_networks_squared_distance_from_its_ends_is_known_in_closed_form():
    first, second = nn.Linear(3, 2, bias=False).double(), nn.Linear(3, 2, bias=False).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    y = torch.randint(0, 2, (5,))
    for alpha in (-1.0, 0.25, 2.0):
        weight = (1 - alpha) * first.weight + alpha * second.weight
        expected = nn.functional.cross_entropy((x @ weight.T).float(), y).item()
        assert interpolate(first, second, [(x, y)], [alpha])[0].loss == approx_loss(expected)


def test_a_running_variance_below_zero_makes_a_gap_and_is_counted(batches):
    first, second = network(0), network(1)
    with torch.no_grad():
        first[1].running_var[:] = torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])
        second[1].running_var[:] = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    at_two, at_minus_one, between = interpolate(first, second, batches, [2.0, -1.0, 0.5])
    assert at_two.negative_variances == 2
    assert math.isnan(at_two.loss)
    assert math.isnan(at_two.accuracy)
    assert at_minus_one.negative_variances == 1
    assert between.negative_variances == 0
    assert math.isfinite(between.loss)


def test_both_networks_stay_as_they_are_and_counters_are_not_interpolated(batches):
    first, second = network(0), network(1)
    second.train()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (first, second)]
    interpolate(first, second, batches, [-1.0, 0.5])
    for model, old in zip((first, second), before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in model.state_dict().items())
    assert second.training
    assert not first.training


def test_the_curve_takes_cosine_and_sine_of_a_quarter_turn_and_is_exact_at_whole_numbers():
    exact = {-1.0: (0.0, -1.0), 0.0: (1.0, 0.0), 1.0: (0.0, 1.0), 2.0: (-1.0, 0.0), 3.0: (0.0, -1.0)}
    assert {alpha: curvilinear(alpha) for alpha in exact} == exact
    assert curvilinear(1 / 3) == pytest.approx((math.sqrt(3) / 2, 0.5), rel=1e-12)
    assert curvilinear(-0.5) == pytest.approx((math.sqrt(0.5), -math.sqrt(0.5)), rel=1e-12)
    assert curvilinear(1.5) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)), rel=1e-12)


def test_a_point_of_the_curve_is_the_network_with_hand_made_weights(batches):
    first, second, between = (nn.Linear(4, 3) for _ in range(3))
    with torch.no_grad():
        for p, a, b in zip(between.parameters(), first.parameters(), second.parameters(), strict=True):
            p.copy_(math.sqrt(3) / 2 * a + b / 2)
    point = interpolate(first, second, batches, [1 / 3], path="curvilinear")[0]
    expected = evaluate(between, batches)
    assert (point.loss, point.accuracy) == (approx_loss(expected.loss), expected.accuracy)


def test_the_ends_of_the_curve_are_the_two_networks_own_numbers_exactly(batches):
    first, second = network(0), network(1)
    with torch.no_grad():
        second[0].weight[2:] = 0.0  # where 6e-17 of the first network would show
    points = interpolate(first, second, batches, [0.0, 1.0], path="curvilinear")
    assert (points[0].loss, points[0].accuracy) == evaluate(first, batches)
    assert (points[1].loss, points[1].accuracy) == evaluate(second, batches)


def averages(model: nn.Module) -> list[torch.Tensor]:
    return [model[1].running_mean.clone(), model[1].running_var.clone()]


def test_kept_statistics_are_the_first_networks_all_the_way(batches):
    first, second = network(0), network(1)
    for stop in iterate_path(first, second, [-1.0, 0.5, 2.0], running_stats="kept"):
        assert all(torch.equal(a, b) for a, b in zip(averages(stop.network), averages(first), strict=True))
        torch.testing.assert_close(
            stop.network[0].weight, (1 - stop.alpha) * first[0].weight + stop.alpha * second[0].weight
        )
        assert stop.negative_variances == 0
    point = interpolate(first, second, batches, [0.0], running_stats="kept")[0]
    assert (point.loss, point.accuracy) == evaluate(first, batches)


def test_recomputed_statistics_are_those_of_a_pass_by_hand_at_each_point(batches):
    first, second = network(0), network(1)
    for path, (a, b) in (("linear", (-0.5, 1.5)), ("curvilinear", curvilinear(1.5))):
        by_hand = network(2)
        with torch.no_grad():
            for p, one, other in zip(by_hand.parameters(), first.parameters(), second.parameters(), strict=True):
                p.copy_(a * one + b * other)
            hidden = [by_hand[0](x) for x, _ in batches]
            by_hand[1].running_mean.copy_(torch.stack([h.mean(0) for h in hidden]).mean(0))
            by_hand[1].running_var.copy_(torch.stack([h.var(0) for h in hidden]).mean(0))
        expected = evaluate(by_hand, batches)
        choices = {"path": path, "running_stats": "recomputed", "running_stats_from": batches}
        point = interpolate(first, second, batches, [1.5], **choices)[0]
        assert point.loss == approx_loss(expected.loss)
        assert (point.accuracy, point.negative_variances) == (expected.accuracy, 0)


def test_statistics_of_other_layers_are_mixed_where_batchnorms_are_recomputed(batches):
    def model(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        layers = [nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()]
        made = nn.Sequential(*layers, network(seed))
        made.train()(torch.randn(16, 4) * (1 + seed))
        return made.eval()

    first, second = model(0), model(1)
    anew = copy.deepcopy(second)
    recalibrate_batchnorm(anew, batches)
    point = interpolate(first, second, batches, [1.0], running_stats="recomputed", running_stats_from=batches)[0]
    assert (point.loss, point.accuracy) == evaluate(anew, batches)


def test_complex_weights_are_mixed_too():
    class Wave(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    first, second = Wave(0), Wave(1)
    [stop] = iterate_path(first, second, [0.25])
    torch.testing.assert_close(stop.network.weight, 0.75 * first.weight + 0.25 * second.weight)


def test_with_recomputed_statistics_the_ends_are_the_networks_with_statistics_recomputed(batches):
    first, second = network(0), network(1)
    points = interpolate(first, second, batches, [0.0, 1.0], running_stats="recomputed", running_stats_from=batches)
    for point, end in zip(points, (first, second), strict=True):
        anew = copy.deepcopy(end)
        recalibrate_batchnorm(anew, batches)
        assert (point.loss, point.accuracy) == evaluate(anew, batches)
        assert point.loss != evaluate(end, batches).loss


@pytest.mark.parametrize("spent", [None, [], iter([])])
def test_statistics_need_batches_that_repeat_themselves(batches, spent):
    first, second = network(0), network(1)
    with pytest.raises(ValueError, match=r"^running_stats_from: .*(batches|more than one pass)"):
        interpolate(first, second, batches, running_stats="recomputed", running_stats_from=spent)


class Masked(nn.Module):
    """Inputs are centered by a constant, a buffer; answers are masked by another, a buffer or a frozen parameter."""

    def __init__(self, seed: int, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(4, 3)
        self.register_buffer("centre", torch.full((4,), 0.5))
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -math.inf]))
        if frozen:
            self.mask = nn.Parameter(vars(self)["_buffers"].pop("mask"), requires_grad=False)

    def forward(self, inputs):
        return self.layer(inputs - self.centre) + self.mask


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("path", ["linear", "curvilinear"])
def test_what_is_constant_in_both_networks_stays_so_on_the_way(path, frozen):
    stops = iterate_path(Masked(0, frozen), Masked(1, frozen), [-1.0, 0.0, 0.5, 1.0, 2.0], path=path)
    constants = [[stop.network.centre.tolist(), stop.network.mask.tolist()] for stop in stops]
    assert constants == [[[0.5] * 4, [0.0, 0.0, -math.inf]]] * 5


@pytest.mark.parametrize("alpha", [-1, 2])
def test_singular_vectors_are_recomputed_where_the_curve_is_minus_one_of_the_networks(batches, alpha):
    def normalized(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))
        for _ in range(50):
            model(torch.randn(2, 4))
        return model.eval()

    around = [alpha - 1e-4, alpha, alpha + 1e-4]
    before, at, after = (p.loss for p in interpolate(normalized(0), normalized(1), batches, around, path="curvilinear"))
    assert at == pytest.approx((before + after) / 2, abs=1e-4)


class Table(nn.Module):
    """Multiplies by a constant that no arithmetic can change: of eight bits, or with entries that share memory."""

    def __init__(self, constant: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("constant", constant)

    def forward(self, x):
        return self.layer(x * self.constant.float())


@pytest.mark.parametrize("constant", [torch.ones(4).to(torch.float8_e4m3fn), torch.ones(1).expand(4)])
def test_equal_constants_need_no_arithmetic(batches, constant):
    first = Table(constant)
    second = copy.deepcopy(first)
    nn.init.ones_(second.layer.weight)
    ends = interpolate(first, second, batches, [0.0, 0.5, 1.0])
    assert (ends[0].loss, ends[2].loss) == (evaluate(first, batches).loss, evaluate(second, batches).loss)
