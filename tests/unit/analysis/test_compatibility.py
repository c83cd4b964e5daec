"""Ways between networks that are wrapped, keep activations, or are spectrally normalized."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from smoothout import interpolate
from smoothout.analysis.compatibility import check_same_architecture
from smoothout.analysis.interpolation import iterate_path
from smoothout.nn.evaluation import evaluate


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(7, 4), torch.randint(0, 3, (7,))) for _ in range(3)]


def normalised(seed: int) -> nn.Sequential:
    """Two layers whose largest singular value is 1."""
    torch.manual_seed(seed)
    made = nn.Sequential(spectral_norm(nn.Linear(4, 40)), nn.ReLU(), spectral_norm(nn.Linear(40, 3)))
    for _ in range(200):
        made(torch.randn(2, 4))
    return made.eval()


def norms(model: nn.Sequential) -> list[float]:
    return [torch.linalg.matrix_norm(model[i].weight, 2).item() for i in (0, 2)]


def test_between_two_networks_spectrally_normalised_layers_are_normalised(batches: list[tuple[Tensor, Tensor]]) -> None:
    first, second = normalised(0), normalised(1)
    second.train()
    buffers = [buffer.clone() for model in (first, second) for buffer in model.buffers()]
    for stop in iterate_path(first, second, [-1.0, 0.3, 0.5, 2.0]):
        assert norms(stop.network) == pytest.approx([1.0, 1.0], rel=1e-3)
        assert not any(module.training for module in stop.network.modules())
    ends = interpolate(first, second, batches, [0.0, 1.0])
    second.eval()
    assert [(end.loss, end.accuracy) for end in ends] == [evaluate(one, batches) for one in (first, second)]
    after = [buffer for model in (first, second) for buffer in model.buffers()]
    assert all(torch.equal(one, other) for one, other in zip(buffers, after, strict=True))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_spectral_normalisation_by_a_hook_is_refused_by_the_layers_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.nn.utils.spectral_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"^1: its spectral_norm is a hook; use torch\.nn\.utils\.parametrizations\."):
        interpolate(model, model, [(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))])


class Keeping(nn.Module):
    """Keeps what it computed, history and all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.seen: dict[str, list[Tensor]] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        self.last: Tensor = self.layer(inputs)
        self.seen["all"] = [*self.seen.get("all", []), self.last]
        return self.last


def test_a_model_that_keeps_activations_is_copied_and_keeps_its_own(batches: list[tuple[Tensor, Tensor]]) -> None:
    first, second = Keeping(), Keeping()
    kept = first(batches[0][0])
    [stop] = iterate_path(first, second, [0.5])
    assert first.last is kept is first.seen["all"][0]
    assert torch.equal(stop.network.last, kept)
    assert not stop.network.last.requires_grad
    middle = 0.5 * first.layer.weight + 0.5 * second.layer.weight
    torch.testing.assert_close(stop.network.layer.weight, middle)


@pytest.mark.parametrize(
    ("second", "line"),
    [
        (nn.Linear(4, 5), "weight is (3, 4) and (5, 4)"),
        (nn.Linear(4, 3, bias=False), "bias is (3,) and missing"),
        (nn.Sequential(nn.Linear(4, 3)), "weight is (3, 4) and missing"),
        (nn.ReLU(), "weight is (3, 4) and missing"),
    ],
)
def test_the_first_weight_that_differs_is_named(
    second: nn.Module, line: str, batches: list[tuple[Tensor, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=f"^first, second: .* {re.escape(line)}$"):
        interpolate(nn.Linear(4, 3), second, batches)


@pytest.mark.parametrize("path", ["linear", "curvilinear"])
def test_what_is_not_finite_in_one_network_does_not_reach_the_other_end(
    path: str, batches: list[tuple[Tensor, Tensor]]
) -> None:
    whole, broken = nn.Linear(4, 3), nn.Linear(4, 3)
    with torch.no_grad():
        broken.weight[0, 0] = math.nan
        broken.bias[1] = math.inf
    own = evaluate(whole, batches)
    for first, second, alphas in ((whole, broken, [0.0, 0.5, 1.0]), (broken, whole, [1.0, 0.5, 0.0])):
        points = interpolate(first, second, batches, alphas, path=path)
        assert (points[0].loss, points[0].accuracy) == own
        assert all(math.isnan(point.loss) for point in points[1:])


class Tied(nn.Module):
    """Two layers that share their weight, or begin with the same one."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.out.weight = self.into.weight if tied else nn.Parameter(self.into.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.into(x))
        return found


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_and_others_cannot_be_mixed(tied: bool, batches: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"^first, second: .* ties into\.weight and out\.weight"):
        interpolate(Tied(tied), Tied(not tied), batches)
    ends = Tied(tied), Tied(tied)
    points = interpolate(*ends, batches, [0.0, 1.0])
    assert [point[1:3] for point in points] == [tuple(evaluate(end, batches)) for end in ends]


class Told(nn.Linear):
    """A layer with a buffer outside its state dict, and a state that is not a tensor."""

    def __init__(self, scale: float) -> None:
        super().__init__(4, 3)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 2}


def test_buffers_outside_the_state_dict_must_agree(batches: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"^first, second: .* buffer scale differs"):
        interpolate(Told(1.0), Told(2.0), batches)
    ends = Told(1.0), Told(1.0)
    points = interpolate(*ends, batches, [0.0, 1.0])
    assert [point[1:3] for point in points] == [tuple(evaluate(end, batches)) for end in ends]


class Permuted(nn.Module):
    """A linear layer of inputs in another order, and a counter."""

    def __init__(self, order: list[int], steps: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("steps", torch.tensor(steps))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x[:, self.order])
        return found


def test_whole_numbers_cannot_be_mixed_but_for_counters_which_are_the_ends_own() -> None:
    first, second = Permuted([0, 1, 2, 3], 5), Permuted([0, 1, 2, 3], 7)
    assert [int(point.network.steps) for point in iterate_path(first, second, [0.0, 0.5, 1.0])] == [5, 5, 7]
    with pytest.raises(ValueError, match=r"^first, second: order differs and is torch\.int64"):
        list(iterate_path(first, Permuted([1, 0, 2, 3], 7)))


def test_networks_of_two_dtypes_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match=r"same dtypes, but weight is torch\.float32 and torch\.bfloat16$"):
        list(iterate_path(nn.Linear(4, 3), nn.Linear(4, 3).bfloat16()))


def test_networks_on_two_devices_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match=r"must be on one device, but weight is on cpu and meta$"):
        check_same_architecture(nn.Linear(4, 3).state_dict(), nn.Linear(4, 3, device="meta").state_dict())
