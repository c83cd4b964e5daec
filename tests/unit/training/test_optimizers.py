"""The optimizers' formulas, written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smoothout.training.live_optimizer import LiveOptimizer
from smoothout.training.optimizers import SGD, Adam, Epsilon

GRADIENTS = [[0.5, -2.0, 0.0], [0.1, 1.0, -3.0], [-0.4, 0.3, 0.2], [1e-6, 5.0, 0.0]]


def stepped(settings: Adam | SGD, size: float = 1.0) -> list[Tensor]:
    """The weights after each of four updates with known gradients, ``size`` times the above."""
    weight = nn.Parameter(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64))
    optimizer = settings.build([weight])
    found = []
    for gradient in GRADIENTS:
        weight.grad = size * torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        found.append(weight.detach().clone())
    return found


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_is_the_heavy_ball(momentum: float, decay: float) -> None:
    weight, speed = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for gradient, found in zip(GRADIENTS, stepped(SGD(0.1, decay, momentum=momentum)), strict=True):
        speed = momentum * speed + torch.tensor(gradient, dtype=torch.float64) + decay * weight
        weight = weight - 0.1 * speed
        torch.testing.assert_close(found, weight)


@pytest.mark.parametrize(("decay", "size"), [(0.0, 1.0), (0.1, 1.0), (0.0, 1e-8)])
def test_adam_is_kingma_and_bas_with_an_l2_term_in_the_gradient(decay: float, size: float) -> None:
    weight = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (gradient, found) in enumerate(zip(GRADIENTS, stepped(Adam(0.01, decay), size), strict=True), 1):
        slope = size * torch.tensor(gradient, dtype=torch.float64) + decay * weight
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        weight = weight - 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(found, weight)


@pytest.mark.parametrize("size", [1e-8, 1e-3])
def test_an_uncorrected_epsilon_is_that_of_pytorch_up_to_1_2(size: float) -> None:
    """20 updates as its adam.py made them: epsilon is added to the root of the moment as it is."""
    gradients = size * torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    wanted, mean, square = (torch.zeros(5, dtype=torch.float64) for _ in range(3))
    optimizer = Adam(0.01, epsilon=Epsilon.uncorrected).build([weight])
    for t, gradient in enumerate(gradients, 1):
        weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        wanted -= 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * mean / (square.sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach(), wanted, rtol=1e-9, atol=0.0)


def test_an_uncorrected_epsilon_follows_the_state_that_is_loaded() -> None:
    """At the start, and after updates of the optimizer's own."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = Adam(0.01, epsilon=Epsilon.uncorrected).build([weight])
    states, moves = [], list[Tensor]()
    for update in range(5):
        if update == 3:
            optimizer.load_state_dict(states[1])
        states.append(copy.deepcopy(optimizer.state_dict()))
        before, weight.grad = weight.detach().clone(), torch.full((3,), 1e-8)
        optimizer.step()
        moves.append(weight.detach() - before)
    assert not torch.allclose(moves[1], moves[2], rtol=0.1, atol=0.0)
    assert torch.allclose(moves[3], moves[1], rtol=1e-5, atol=0.0)
    assert torch.allclose(moves[4], moves[2], rtol=1e-5, atol=0.0)
    other = Adam(0.01, epsilon=Epsilon.uncorrected).build([weight])
    other.load_state_dict(states[2])
    before, weight.grad = weight.detach().clone(), torch.full((3,), 1e-8)
    other.step()
    torch.testing.assert_close(weight.detach() - before, moves[2], rtol=1e-5, atol=0.0)


class Waiting(TorchDispatchMode):
    """Counts the numbers that are read from tensors: on a GPU, each is a wait."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*arguments, **(settings or {}))


@dataclass(frozen=True)
class SlowerHead(SGD):
    """Trains the last parameter at a tenth of the learning rate."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        *body, head = parameters
        return torch.optim.SGD([{"params": body}, {"params": [head], "lr": self.lr / 10}], lr=self.lr)


def test_a_schedule_scales_each_groups_own_learning_rate() -> None:
    optimizer = LiveOptimizer(SlowerHead(0.8), nn.Linear(2, 2), torch.device("cpu"))

    def rates() -> list[float]:
        return [float(group["lr"]) for group in optimizer.torch.param_groups]

    optimizer.scale_lr(0.5)
    assert rates() == [0.4, 0.04]
    optimizer.keep_numbers_on_device()
    optimizer.scale_lr(0.25)
    assert rates() == pytest.approx([0.2, 0.02])
    optimizer.keep_numbers_on_host()
    assert rates() == [0.2, 0.02]


def test_an_uncorrected_epsilon_waits_for_the_device_once_after_a_resume() -> None:
    weight = nn.Parameter(torch.zeros(3))
    first, second = (Adam(0.01, epsilon=Epsilon.uncorrected).build([weight]) for _ in range(2))
    weight.grad = torch.ones(3)
    with Waiting() as waiting:
        for _ in range(3):
            first.step()
    assert waiting.count == 0
    second.load_state_dict(first.state_dict())
    with Waiting() as waiting:
        for _ in range(3):
            second.step()
    assert waiting.count == 1


def test_an_optimizer_must_update_every_trainable_parameter() -> None:
    @dataclass(frozen=True)
    class WeightAlone(SGD):
        def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return super().build([*parameters][:1])

    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^optimizer: WeightAlone leaves out bias; must update every trainable"):
        LiveOptimizer(WeightAlone(0.1), model, torch.device("cpu"))
    model.bias.requires_grad_(False)
    LiveOptimizer(WeightAlone(0.1), model, torch.device("cpu"))
