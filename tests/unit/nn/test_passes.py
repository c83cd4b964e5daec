"""Contexts of methods beside SmoothOut against their papers' updates, written out with plain tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.noise_cases import examples, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import ASAM, MSAM, NSO, SAM, MixedRWP
from smoothout.common.rng import normal_
from smoothout.nn.passes import Passes

Batch = tuple[Tensor, Tensor]
Flat = Callable[[Tensor, Batch], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Linear(5, 8, bias=False)  # before BatchNorm a bias has a gradient of rounding alone
    return nn.Sequential(first, nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int = 3) -> list[Batch]:
    inputs, labels = examples(8 * count)
    return list(zip(inputs.double().split(8), labels.split(8), strict=True))


class Reference:
    """A copy of a network whose gradient is a function of all weights as one vector."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.parameters = list(self.model.parameters())
        self.w = torch.cat([p.detach().flatten() for p in self.parameters])
        self.buffers: dict[str, Tensor] = {}

    def gradient(self, w: Tensor, batch: Batch, feeds: bool = True) -> Tensor:
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        parts = w.split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, part in zip(self.parameters, parts, strict=True):
                p.copy_(part.view_as(p))
        found = torch.autograd.grad(F.cross_entropy(self.model(batch[0]), batch[1]), self.parameters)
        if not feeds:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(before[name])
        return torch.cat([g.flatten() for g in found])

    def draw(self, generator: torch.Generator) -> Tensor:
        return normal_(torch.empty_like(self.w), generator)

    def filter_norms(self) -> Tensor:
        parts = zip(self.w.split([p.numel() for p in self.parameters]), self.parameters, strict=True)
        rows = [part.view(len(p) if p.dim() > 1 else 1, -1) for part, p in parts]
        return torch.cat([row.norm(dim=1, keepdim=True).expand_as(row).flatten() for row in rows])

    def scale(self, eta: float) -> Tensor:
        names = [name for name, _ in self.model.named_parameters()]
        parts = self.w.split([p.numel() for p in self.parameters])
        return torch.cat(
            [p.abs() + eta if "weight" in n else torch.ones_like(p) for n, p in zip(names, parts, strict=True)]
        )


def sam(reference: Reference, batch: Batch, another: Batch, generator: torch.Generator) -> Tensor:
    g = reference.gradient(reference.w, batch)
    return reference.gradient(reference.w + 0.3 * g / g.norm(), batch, feeds=False)


def asam(reference: Reference, batch: Batch, another: Batch, generator: torch.Generator) -> Tensor:
    g, t = reference.gradient(reference.w, batch), reference.scale(0.02)
    return reference.gradient(reference.w + 0.3 * t**2 * g / (t * g).norm(), batch)


def nso(reference: Reference, batch: Batch, another: Batch, generator: torch.Generator) -> Tensor:
    u = 0.1 * reference.draw(generator)
    return (reference.gradient(reference.w + u, batch) + reference.gradient(reference.w - u, batch)) / 2


def mixed(reference: Reference, batch: Batch, another: Batch, generator: torch.Generator) -> Tensor:
    noise = 0.1 * reference.filter_norms() * reference.draw(generator)
    clean = reference.gradient(reference.w, batch)
    return 0.3 * reference.gradient(reference.w + noise, another, feeds=False) + 0.7 * clean


METHODS: dict[str, tuple[Callable[[nn.Module], Passes], Callable[..., Tensor]]] = {
    "sam": (lambda m: SAM(m, 0.3), sam),
    "asam": (lambda m: ASAM(m, 0.3, eta=0.02), asam),
    "nso": (lambda m: NSO(m, 0.1, generator=seeded(2)), nso),
    "mixed rwp": (lambda m: MixedRWP(m, 0.1, weight=0.3, generator=seeded(2)), mixed),
}


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("name", METHODS)
def test_two_passes_give_the_papers_gradient(name: str, scale: float) -> None:
    """Accumulated over two micro-batches, under a gradient scaler's factor."""
    model = network().double()
    reference, generator = Reference(model), seeded(2)
    make, papers = METHODS[name]
    method = make(model)
    first, second, another = batches()
    for batch in (first, second):
        for block, (inputs, labels) in zip(method, (batch, another if name == "mixed rwp" else batch), strict=True):
            with block:
                (scale * F.cross_entropy(model(inputs), labels)).backward()
    wanted = sum(papers(reference, batch, another, generator) for batch in (first, second))
    found = torch.cat([p.grad.flatten() for p in model.parameters()]) / scale
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), reference.w)
    for (key, ours), (_, theirs) in zip(model.named_buffers(), reference.model.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("make", [SAM, lambda m: NSO(m, 0.1)])
def test_a_second_pass_without_the_first_is_refused_and_changes_nothing(make: Any) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="enter both blocks for every batch"), make(model)[1]:
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", [0, 1])
def test_after_an_error_weights_gradients_and_statistics_mode_are_as_before(name: str, which: int) -> None:
    model = network().double()
    [(inputs, labels)] = batches(1)
    F.cross_entropy(model(inputs), labels).backward()
    before, gradients = copy.deepcopy(dict(model.named_parameters())), [p.grad.clone() for p in model.parameters()]
    method = METHODS[name][0](model)

    def run() -> Iterator[None]:
        for index, block in enumerate(method):
            with block:
                if index == which:
                    raise KeyError(index)
                F.cross_entropy(model(inputs), labels).backward()
            if name not in ("sam", "asam"):
                for p, g in zip(model.parameters(), gradients, strict=True):
                    g.copy_(p.grad)
        yield

    with pytest.raises(KeyError):
        next(run())
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert model[1].track_running_stats


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", [0, 1])
def test_an_update_within_a_pass_is_refused(name: str, which: int) -> None:
    model = network().double()
    optimizer, [(inputs, labels)] = torch.optim.SGD(model.parameters(), 0.1), batches(1)
    for index, block in enumerate(METHODS[name][0](model)):
        with block:
            F.cross_entropy(model(inputs), labels).backward()
            if index == which:
                with pytest.raises(RuntimeError, match=r"optimizer.step\(\) belongs after the block"):
                    optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_a_backward_pass_after_the_first_block_is_refused(name: str) -> None:
    model, [(inputs, labels)] = network().double(), batches(1)
    with METHODS[name][0](model)[0]:
        loss = F.cross_entropy(model(inputs), labels)
    with pytest.raises(RuntimeError, match="the backward pass belongs inside the block"):
        loss.backward()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("inner", [0, 1])
def test_a_block_inside_a_block_of_the_batch_is_refused_and_changes_nothing(name: str, inner: int) -> None:
    model, [(inputs, labels)] = network().double(), batches(1)
    F.cross_entropy(model(inputs), labels).backward()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    blocks = METHODS[name][0](model)
    message = "^a block of this batch is already entered: leave it before the next one"
    with pytest.raises(RuntimeError, match=message), blocks[0], blocks[inner]:
        pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    for block in blocks:  # they can be entered in turn
        with block:
            F.cross_entropy(model(inputs), labels).backward()


def test_sam_needs_a_backward_pass_in_its_first_block() -> None:
    model, [(inputs, labels)] = network().double(), batches(1)
    first, second = SAM(model)
    with first:
        model(inputs)
    with pytest.raises(RuntimeError, match="backpropagate in both"), second:
        F.cross_entropy(model(inputs), labels).backward()


def test_sam_takes_the_sparse_gradients_of_an_embedding() -> None:
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3))
        for block in SAM(model):
            with block:
                F.cross_entropy(model(torch.tensor([[1, 2], [2, 9]])), torch.tensor([0, 2])).backward()
        found.append(model[0].weight.grad.to_dense())
    torch.testing.assert_close(*found)


def test_the_strength_of_nso_can_be_set_between_batches() -> None:
    model = network()
    nso = NSO(model, 0.1)
    nso.sigma = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    with nso[0]:
        assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="strength must be a finite number"):
        nso.sigma = -1.0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_msam_takes_the_gradient_against_the_momentum(kind: Any) -> None:
    """Becker et al. (2024), Algorithm 1: v from gradients at w - rho v / ||v||."""
    model = network().double()
    settings = {"momentum": 0.9, "weight_decay": 0.01} if kind is torch.optim.SGD else {"betas": (0.8, 0.9)}
    optimizer = kind(model.parameters(), 0.05, **settings)
    msam, reference = MSAM(model, optimizer, rho=0.4), Reference(model)
    w, v, s = reference.w, torch.zeros_like(reference.w), torch.zeros_like(reference.w)
    for step, batch in enumerate(batches(), 1):
        with msam:
            F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        g = reference.gradient(w - 0.4 * v / v.norm() if step > 1 else w, batch)
        if kind is torch.optim.SGD:
            v = 0.9 * v + g + 0.01 * w
            w = w - 0.05 * v
        else:
            v, s = 0.8 * v + 0.2 * g, 0.9 * s + 0.1 * g**2
            w = w - 0.05 * v / (1 - 0.8**step) / ((s / (1 - 0.9**step)).sqrt() + 1e-8)
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in model.parameters()]), w, rtol=1e-9, atol=1e-11)


def test_msam_refuses_an_optimizer_without_momentum() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"^optimizer: .* SGD has none"):
        MSAM(model, torch.optim.SGD(model.parameters(), 0.1))


def test_msam_refuses_a_momentum_of_another_name() -> None:
    class InBlocks(torch.optim.AdamW):
        """Keeps its momentum as "state1"."""

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p] = {"step": 1, "state1": torch.zeros_like(p)}

    model = network()
    optimizer = InBlocks(model.parameters())
    msam = MSAM(model, optimizer)
    with msam:
        pass
    optimizer.step()
    with pytest.raises(ValueError, match=r"^optimizer: keeps no exp_avg .* step, state1"), msam:
        pass


def test_asam_is_sam_for_parameters_of_other_names() -> None:
    """A network of which biases alone are trained."""
    found = []
    for make in (SAM, ASAM):
        model = network()
        model[0].weight.requires_grad_(False)
        model[3].weight.requires_grad_(False)
        model[1].weight.requires_grad_(False)
        inputs, labels = examples(8)
        for block in make(model, 0.3, statistics_from="clean"):
            with block:
                F.cross_entropy(model(inputs), labels).backward()
        found.append(torch.cat([p.grad for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found)


def test_msam_refuses_an_optimizer_of_another_model() -> None:
    model, others = network(), torch.optim.Adam(network().parameters())
    with pytest.raises(ValueError, match=r"^optimizer: .* updates none of the model's trainable parameters"):
        MSAM(model, others)
    msam = MSAM(model, torch.optim.Adam(model.parameters()))
    msam.optimizer = others
    with pytest.raises(ValueError, match=r"^optimizer: "), msam:
        pass
    with pytest.raises(TypeError, match=r"^optimizer: must be a torch.optim.Optimizer, not NoneType"):
        MSAM(model, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: SAM(m, 0.0), "rho: must be a finite number above 0, not 0.0"),
        (lambda m: SAM(m, statistics_from="x"), "statistics_from: 'x' is not one of clean, perturbed, both"),
        (lambda m: ASAM(m, eta=0.0), "eta: must be a finite number above 0, not 0.0"),
        (lambda m: MixedRWP(m, 0.1, weight=1.0), "weight: must lie between 0 and 1, not 1.0"),
        (lambda m: MixedRWP(m, 0.1, weight="x"), "weight: must lie between 0 and 1, not 'x'"),
        (lambda m: NSO(m, -0.1), "sigma: the noise's strength must be a finite number >= 0, not -0.1"),
    ],
)
def test_wrong_settings_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(network())


@pytest.mark.parametrize("name", METHODS)
def test_under_autocast_a_second_pass_sees_its_own_weights(name: str) -> None:
    """Autocast caches low-precision copies of weights, which must not outlive a pass."""
    found = []
    for cached in (True, False):
        model = network()
        method = METHODS[name][0](model)
        inputs, labels = examples(8)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cached):
            for block in method:
                with block:
                    F.cross_entropy(model(inputs), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_scaler_skips_an_update_whose_gradient_overflows(name: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    inputs, labels = examples(8)
    for block in METHODS[name][0](model):
        with block:
            scaler.scale(1e6 * F.cross_entropy(model(inputs), labels)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers()), "the second pass is at finite weights"
    assert scaler.get_scale() < 2.0**127
