"""SmoothOut's loss and gradient are those of E[C(w + theta)], and its copies are those of Eq. 1."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.common import SIGMAS
from helpers.noise_cases import SCALINGS, examples, network, seeded, thetas
from helpers.other_device import OtherDevice
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smoothout import SmoothOut, SmoothOutCopies
from smoothout.common.rng import make_generator
from smoothout.nn import copies as copies_module

# noise relative to the weights leaves BatchNorm's bias at the 0 that it starts with


class Quadratic(nn.Module):
    """C(w) = w.Hw / 2 + g.w + 3 on six weights in two tensors; gives (C,), whatever comes in."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = seeded(11)
        root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        self.register_buffer("hessian", (root @ root.T).to(dtype))
        self.register_buffer("slope", torch.randn(6, generator=generator, dtype=torch.float64).to(dtype))
        start = 0.3 * torch.randn(6, generator=generator, dtype=torch.float64)
        self.first = nn.Parameter(start[:4].reshape(2, 2).to(dtype))
        self.second = nn.Parameter(start[4:].to(dtype))

    def flat(self) -> Tensor:
        return torch.cat([self.first.reshape(-1), self.second])

    def forward(self) -> Tensor:
        w = self.flat()
        return 0.5 * w @ self.hessian @ w + self.slope @ w + 3.0

    def gradient_at(self, w: Tensor) -> Tensor:
        return self.hessian @ w + self.slope

    def gradient(self) -> Tensor:
        """What backward() left."""
        assert self.first.grad is not None
        assert self.second.grad is not None
        return torch.cat([self.first.grad.reshape(-1), self.second.grad])


# The smoothed loss in closed form


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("law", "second_moment"), [("uniform", 1 / 3), ("gaussian", 1.0)])
def test_the_mean_loss_under_noise_is_that_of_the_smoothed_quadratic(
    law: str, second_moment: float, dtype: torch.dtype
) -> None:
    """E C(w + theta) = C(w) + E theta^2 tr H / 2: a^2 / 6 tr H for uniform noise, a^2 / 2 tr H for Gaussian."""
    a, model = 0.5, Quadratic(dtype)
    context = SmoothOut(model, a, law)
    losses = []
    with torch.no_grad():
        for _ in range(3000):
            with context:
                losses.append(float(model()))
        rise = a * a * second_moment / 2 * float(model.hessian.trace())
        clean = float(model())
    seen = torch.tensor(losses, dtype=torch.float64)
    error = float(seen.std() / math.sqrt(len(seen)))
    assert abs(float(seen.mean()) - (clean + rise)) < SIGMAS * error
    assert rise > 12 * error  # so half or twice the rise would have been noticed


@pytest.mark.parametrize("scaling", ["weight", "filter"])
def test_the_mean_loss_under_scaled_noise_is_that_of_the_smoothed_quadratic(scaling: str) -> None:
    """Per weight E theta_i^2 = a^2 w_i^2 / 3; per filter of k entries a^2 ||w||^2 / k, entries uncorrelated."""
    a, model = 2.0, Quadratic()
    w = model.flat().detach()
    rows = [w[:2], w[2:4], w[4:5], w[5:]]
    moments = torch.cat([(row**2 / 3 if scaling == "weight" else row.square().mean().expand(len(row))) for row in rows])
    rise = 0.5 * a * a * float(model.hessian.diag() @ moments)
    context = SmoothOut(model, a, scaling=scaling)
    losses = []
    with torch.no_grad():
        for _ in range(3000):
            with context:
                losses.append(float(model()))
        clean = float(model())
    seen = torch.tensor(losses, dtype=torch.float64)
    error = float(seen.std() / math.sqrt(len(seen)))
    assert abs(float(seen.mean()) - (clean + rise)) < SIGMAS * error
    assert rise > 12 * error


# The gradient


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_gradient_is_that_of_the_function_at_w_plus_theta(scaling: str) -> None:
    model, (inputs, labels) = network().double(), examples(9)
    inputs = inputs.double()
    drawn = thetas(SmoothOut(model, 0.3, scaling=scaling, batchnorm=True, generator=seeded(4)))
    moved = {
        name: (p.detach() + theta).requires_grad_()
        for (name, p), theta in zip(model.named_parameters(), drawn, strict=True)
    }
    loss = F.cross_entropy(functional_call(model, moved, (inputs,)), labels)
    wanted = torch.autograd.grad(loss, list(moved.values()))
    clean = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    with SmoothOut(model, 0.3, scaling=scaling, batchnorm=True, generator=seeded(4)):
        inside = F.cross_entropy(model(inputs), labels)
        inside.backward()
    assert inside.item() == loss.item()
    inside_gradients = [p.grad for p in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(inside_gradients, wanted, strict=True))
    away = torch.cat([(one - other).flatten() for one, other in zip(wanted, clean, strict=True)])
    assert away.norm() > 0.1 * torch.cat([one.flatten() for one in clean]).norm()


def test_the_gradient_under_noise_agrees_with_differences_of_the_loss() -> None:
    model = Quadratic()
    drawn = torch.cat([t.reshape(-1) for t in thetas(SmoothOut(model, 0.2, generator=seeded(9)))])
    with SmoothOut(model, 0.2, generator=seeded(9)):
        model().backward()
        with torch.no_grad():
            slopes = []
            for place in range(4):
                heights = []
                for sign in (1, -1):
                    model.first.data.view(-1)[place] += sign * 1e-4
                    heights.append(float(model()))
                    model.first.data.view(-1)[place] -= sign * 1e-4
                slopes.append((heights[0] - heights[1]) / 2e-4)
    torch.testing.assert_close(model.gradient()[:4], torch.tensor(slopes, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.gradient(), model.gradient_at(model.flat().detach() + drawn))


def test_accumulated_micro_batches_with_noise_of_their_own_are_the_mean_of_their_gradients() -> None:
    model = network().double()
    batches = [(x.double(), y) for x, y in (examples(6, seed) for seed in range(4))]
    wanted = [torch.zeros_like(p) for p in model.parameters()]
    for index, (inputs, labels) in enumerate(batches):
        drawn = thetas(SmoothOut(model, 0.2, batchnorm=True, generator=make_generator(0, "noise", index)))
        moved = [(p.detach() + theta).requires_grad_() for p, theta in zip(model.parameters(), drawn, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        loss = F.cross_entropy(functional_call(model, dict(zip(names, moved, strict=True)), (inputs,)), labels)
        gradients = torch.autograd.grad(loss, moved)
        wanted = [total + gradient / len(batches) for total, gradient in zip(wanted, gradients, strict=True)]
    context = SmoothOut(model, 0.2, batchnorm=True)
    for index, (inputs, labels) in enumerate(batches):
        context.generator = make_generator(0, "noise", index)
        with context:
            (F.cross_entropy(model(inputs), labels) / len(batches)).backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


# Copies


def test_the_noise_of_the_copies_stays_the_same_from_iteration_to_iteration() -> None:
    model = Quadratic()
    copies = SmoothOutCopies(SmoothOut(model, 0.2), 3, seed=8)
    rounds = []
    for _ in range(3):
        noise = []
        before = model.flat().detach().clone()
        for one in copies:
            with one:
                noise.append(model.flat().detach() - before)
        rounds.append(torch.stack(noise))
        assert torch.equal(model.flat(), before)
        with torch.no_grad():
            model.first.add_(0.1)  # an update between the rounds
    torch.testing.assert_close(rounds[1], rounds[0])
    torch.testing.assert_close(rounds[2], rounds[0])
    assert len({tuple(row) for row in rounds[0].tolist()}) == 3
    assert rounds[0].abs().max() <= 0.2


def test_the_gradient_over_copies_is_the_mean_of_the_gradients_by_hand() -> None:
    model, count = Quadratic(), 5
    w = model.flat().detach().clone()
    by_hand = []
    for index in range(count):
        drawn = thetas(SmoothOut(model, 0.2, generator=make_generator(3, "copy", index)))
        by_hand.append(model.gradient_at(w + torch.cat([t.reshape(-1) for t in drawn])))
    copies = SmoothOutCopies(SmoothOut(model, 0.2), count, seed=3)
    for one in copies:
        with one:
            (model() / len(copies)).backward()
    torch.testing.assert_close(model.gradient(), torch.stack(by_hand).mean(0))
    assert not torch.allclose(model.gradient(), model.gradient_at(w), rtol=1e-2)


def test_copies_leave_the_context_its_own_randomness() -> None:
    model = Quadratic()
    context = SmoothOut(model, 0.1, generator=torch.Generator().manual_seed(1))
    own, copies, seen = context.generator, SmoothOutCopies(context, 2), []
    for _ in range(2):
        for copy in copies:
            with copy:
                pass
        with context:
            seen.append(model.flat().detach().clone())
    assert context.generator is own
    assert not torch.equal(*seen)


def test_copies_draw_on_the_device_that_the_model_was_moved_to(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def made_here(*address: object, device: torch.device) -> torch.Generator:
        devices.append(device.type)
        return make_generator(*address)

    monkeypatch.setattr(copies_module, "make_generator", made_here)
    model = nn.Linear(3, 2)
    both = SmoothOutCopies(SmoothOut(model, 0.1), 2)
    with OtherDevice() as device:
        device.moved(model)
        for copy in both:
            with copy:
                pass
    assert devices == [model.weight.device.type] * 2 == ["meta"] * 2
