"""Methods at perturbed weights against their papers' updates, written out as functions of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers.by_hand import EXAMPLES, SETTINGS, SIZE, Convolutional, assert_same_epoch, mask, split
from helpers.common import same_bits
from helpers.trainer_cases import network, run
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smoothout.common.rng import make_generator, normal_
from smoothout.data.split import Split
from smoothout.nn import filter_noise
from smoothout.nn.options import StatisticsFrom
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, GhostPasses
from smoothout.training.methods.arwp import ARWP
from smoothout.training.methods.asam import ASAM
from smoothout.training.methods.base import Method
from smoothout.training.methods.lpf_sgd import LPFSGD, GammaSchedule
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.msam import MSAM
from smoothout.training.methods.nso import NSO
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoisePer
from smoothout.training.optimizers import SGD, Adam, Optimizer
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

Splits = Callable[..., Split]
UPDATES = {6: 4, 12: 2}  # of an epoch, by examples per update


class ByHand:
    """What the references have in common; the shifts of the weights are constants to autograd."""

    def __init__(self, statistics_from: str, batch: Batch, **settings: Any) -> None:
        self.clean_feeds, self.perturbed_feeds = statistics_from != "perturbed", statistics_from != "clean"
        self.batch, self.settings = batch, settings
        self.update = -1

    def loss_at(self, model: nn.Module, shifts: Any, examples: Any, place: Any, feeds: bool) -> Tensor:
        """The loss at w + shifts, as a function of w; ``place`` None goes on with the dropout masks of before."""
        if place is not None:
            mask(*place)
        moved = {name: p + shift for (name, p), shift in zip(model.named_parameters(), shifts, strict=True)}
        kept = {} if feeds else {name: buffer.clone() for name, buffer in model.named_buffers()}
        return F.cross_entropy(functional_call(model, moved | kept, (examples[0],)), examples[1])

    def draws(self, model: nn.Module, place: tuple[int, int], noise_per: str = "ghost") -> list[Tensor]:
        generator = make_generator(0, "noise", place[0], place[1] if noise_per == "ghost" else 0)
        parameters = list(model.parameters())
        flat = normal_(torch.empty(sum(p.numel() for p in parameters), dtype=torch.float64), generator)
        parts = flat.split([p.numel() for p in parameters])
        return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]

    def filter_noise(self, model: nn.Module, place: tuple[int, int], gamma: float, **how: Any) -> list[Tensor]:
        norms = (
            p.detach().flatten(1).norm(dim=1).view(-1, *[1] * (p.dim() - 1)) if p.dim() > 1 else p.detach().norm()
            for p in model.parameters()
        )
        return [gamma * norm * draw for norm, draw in zip(norms, self.draws(model, place, **how), strict=True)]

    def one_pass(self, model: nn.Module, shifts: list[Tensor], images: Tensor, labels: Tensor, *place: int) -> Any:
        still = [torch.zeros_like(p) for p in model.parameters()]
        if self.clean_feeds:
            self.loss_at(model, still, (images, labels), place, True)
        loss = self.loss_at(model, shifts, (images, labels), place, self.perturbed_feeds)
        return loss, loss.detach()

    def sam(self, model: nn.Module, images: Tensor, labels: Tensor, *place: int) -> Any:
        parameters, rho, eta = list(model.parameters()), self.settings["rho"], self.settings.get("eta")
        still = [torch.zeros_like(p) for p in parameters]
        clean = self.loss_at(model, still, (images, labels), place, self.clean_feeds)
        g = torch.autograd.grad(clean, parameters)
        names = [name for name, _ in model.named_parameters()]
        t = [
            p.detach().abs() + eta if eta and "weight" in name else torch.ones_like(p)
            for name, p in zip(names, parameters, strict=True)
        ]
        norm = torch.stack([(a * b).norm() for a, b in zip(t, g, strict=True)]).norm()
        steps = [rho * a**2 * b / norm for a, b in zip(t, g, strict=True)]
        loss = self.loss_at(model, steps, (images, labels), place, self.perturbed_feeds)
        return loss, loss.detach()

    def lpf(self, model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> Any:
        gamma, total = self.settings["gamma"], UPDATES[self.batch.examples_per_update]
        if "alpha" in self.settings:
            gamma *= 1 + self.settings["alpha"] * (1 - math.cos(math.pi * update / total)) / 2
        noise = self.filter_noise(model, (update, ghost), gamma, noise_per=self.settings.get("noise_per", "ghost"))
        return self.one_pass(model, noise, images, labels, update, ghost)

    def nso(self, model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> Any:
        u = [self.settings["sigma"] * draw for draw in self.draws(model, (update, ghost))]
        plus, _ = self.one_pass(model, u, images, labels, update, ghost)
        minus = self.loss_at(model, [-x for x in u], (images, labels), (update, ghost), self.perturbed_feeds)
        return (plus + minus) / 2, (plus + minus).detach() / 2

    def mixed(self, model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> Any:
        others = torch.randperm(EXAMPLES, generator=make_generator(0, "other order", 0))
        rows = self.batch.split(others.split(self.batch.examples_per_update)[update])[ghost]
        still, weight = [torch.zeros_like(p) for p in model.parameters()], self.settings["weight"]
        clean = self.loss_at(model, still, (images, labels), (update, ghost), self.clean_feeds)
        noise = self.filter_noise(model, (update, ghost), self.settings["gamma"])
        # The masks go on: these are other examples.
        noisy = self.loss_at(model, noise, split().gather(rows), None, self.perturbed_feeds)
        mixture = weight * noisy + (1 - weight) * clean
        return mixture, mixture.detach()

    def arwp(self, model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> Any:
        parameters = list(model.parameters())
        if update != self.update:  # grad is still that of the update before
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            fisher = self.__dict__.setdefault("fisher", [torch.zeros_like(p) for p in parameters])
            for f, g in zip(fisher, grads, strict=True):
                f.mul_(self.settings["beta"]).add_(g**2)
            self.update = update
        sums = [f.flatten(1).sum(1).view(-1, *[1] * (f.dim() - 1)) if f.dim() > 1 else f for f in self.fisher]
        noise = self.filter_noise(model, (update, ghost), self.settings["sigma"])
        shrunk = [n / torch.sqrt(1 + self.settings["eta"] * s) for n, s in zip(noise, sums, strict=True)]
        return self.one_pass(model, shrunk, images, labels, update, ghost)

    def msam(self, model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> Any:
        parameters, optimizer = list(model.parameters()), self.settings["optimizer"]
        if update != self.update:
            if update == 0:
                self.v = [torch.zeros_like(p) for p in parameters]
            else:  # from the clipped gradient of the update before, and the weights at which it was taken
                decay, mu = optimizer.weight_decay, 0.9
                factor = 1 if isinstance(optimizer, SGD) else 1 - mu
                self.v = [
                    mu * v + factor * (p.grad + decay * w)  # type: ignore[operator]
                    for v, p, w in zip(self.v, parameters, self.before, strict=True)
                ]
            self.before, self.update = [p.detach().clone() for p in parameters], update
        norm = torch.stack([v.norm() for v in self.v]).norm()
        steps = [-self.settings["rho"] * v / norm if update else v for v in self.v]
        return self.one_pass(model, steps, images, labels, update, ghost)


CASES: dict[str, tuple[Method, str, dict[str, Any]]] = {
    "sam, both feed": (SAM(0.3, StatisticsFrom.both), "sam", {"rho": 0.3}),
    "sam, perturbed feeds": (SAM(0.3, StatisticsFrom.perturbed), "sam", {"rho": 0.3}),
    "asam": (ASAM(0.3, 0.02), "sam", {"rho": 0.3, "eta": 0.02}),
    "lpf-sgd": (LPFSGD(0.05), "lpf", {"gamma": 0.05}),
    "lpf-sgd, rising": (LPFSGD(0.02, GammaSchedule.cosine, 4.0), "lpf", {"gamma": 0.02, "alpha": 4.0}),
    "lpf-sgd, one noise": (LPFSGD(0.05, noise_per=NoisePer.batch), "lpf", {"gamma": 0.05, "noise_per": "batch"}),
    "lpf-sgd, clean feeds": (LPFSGD(0.05, statistics_from=StatisticsFrom.clean), "lpf", {"gamma": 0.05}),
    "nso": (NSO(0.05), "nso", {"sigma": 0.05}),
    "m-rwp": (MixedRWP(0.05), "mixed", {"gamma": 0.05, "weight": 0.5}),
    "m-rwp, unequal": (MixedRWP(0.05, 0.3), "mixed", {"gamma": 0.05, "weight": 0.3}),
    "arwp": (ARWP(0.05, 2.0, 0.7), "arwp", {"sigma": 0.05, "eta": 2.0, "beta": 0.7}),
    "msam": (MSAM(0.4), "msam", {"rho": 0.4}),
}


def allowed(case: str, optimizer: Optimizer) -> bool:
    """Whether the optimizer fits the method and its reference."""
    if case == "arwp":  # F takes the gradient before it is clipped, and the reference sees it afterwards
        return optimizer.clip_norm is None
    return case != "msam" or not isinstance(optimizer, SGD) or optimizer.momentum > 0  # else refused, see below


COMBINATIONS = [
    pytest.param(case, *setting, id=f"{case}, setting {index}")
    for case in CASES
    for index, setting in enumerate(SETTINGS)
    if allowed(case, setting[0])
]


@pytest.mark.parametrize(("case", "optimizer", "batch", "dropout"), COMBINATIONS)
def test_an_epoch_is_that_of_the_papers_update(case: str, optimizer: Optimizer, batch: Batch, dropout: float) -> None:
    method, reference, settings = CASES[case]
    by_hand = ByHand(method.statistics_from, batch, optimizer=optimizer, **settings)  # type: ignore[attr-defined]
    tolerance = 1e-10 if case == "msam" else 1e-12  # its reference adds up the momentum in another order than Adam
    assert_same_epoch(method, optimizer, batch, dropout, getattr(by_hand, reference), tolerance=tolerance)


def test_msam_without_momentum_is_refused(tiny_split: Splits) -> None:
    with pytest.raises(ValueError, match=r"^optimizer: MSAM steps along the momentum, and SGD has none"):
        run(network(), tiny_split, method=MSAM(), optimizer=SGD(0.1, momentum=0.0))


def test_msam_with_an_optimizer_that_is_new_in_every_epoch_has_no_step_at_its_start(tiny_split: Splits) -> None:
    """With one update per epoch, it never has one."""
    settings: dict[str, Any] = {"optimizer": Adam(0.01, reset_every_epoch=True), "batch": Batch(EXAMPLES)}
    plain, found = (run(network(), tiny_split, **more, **settings) for more in ({}, {"method": MSAM(0.4)}))
    assert same_bits(found.model, plain.model)
    settings["batch"] = Batch(SIZE)
    plain, found = (run(network(), tiny_split, **more, **settings) for more in ({}, {"method": MSAM(0.4)}))
    assert not same_bits(found.model, plain.model)


STRENGTHS: dict[str, tuple[Callable[[float], Method], str]] = {
    "lpf-sgd": (LPFSGD, "gamma"),
    "m-rwp": (MixedRWP, "gamma"),
    "arwp": (ARWP, "sigma"),
    "nso": (NSO, "sigma"),
    "sam": (SAM, "rho"),
    "asam": (ASAM, "rho"),
    "msam": (MSAM, "rho"),
}


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(name: str, strength: float) -> None:
    make, field = STRENGTHS[name]
    with pytest.raises(ValueError, match=rf"^{field}: .*above 0.*{strength}"):
        make(strength)


@pytest.mark.parametrize(
    ("eta", "beta", "message"),
    [
        (0.0, 0.9, "^eta: must be a finite number above 0, not 0.0"),
        (-1.0, 0.9, "^eta: must be a finite number above 0, not -1.0"),
        (True, 0.9, "^eta: must be a finite number above 0, not True"),
        (0.1, "x", r"^beta: must lie in \[0, 1\), not 'x'"),
        (0.1, 1.0, r"^beta: must lie in \[0, 1\), not 1.0"),
        (0.1, -0.1, r"^beta: must lie in \[0, 1\), not -0.1"),
    ],
)
def test_settings_and_context_of_arwp_refuse_the_same_numbers(eta: Any, beta: Any, message: str) -> None:
    for make in (ARWP, partial(filter_noise.ARWP, network())):
        with pytest.raises(ValueError, match=message):
            make(0.1, eta=eta, beta=beta)


def test_relative_strengths_are_lengths_over_the_filters() -> None:
    """For noise: what is drawn, on average; for steps: what is stepped."""
    model = nn.Linear(400, 50).double()
    norms = model.weight.detach().norm(dim=1)
    for method, deviation in ((LPFSGD(0.02), 0.02 * norms), (MixedRWP(0.02), 0.02 * norms), (NSO(0.02), 0.02)):
        drawn = torch.randn(50, 400, dtype=torch.float64) * torch.as_tensor(deviation).view(-1, 1)
        assert method.relative_strength(model, 0, 10) == pytest.approx(
            float((drawn.norm(dim=1) / norms).median()), rel=0.02
        )
    gradient = [torch.randn_like(p) for p in model.parameters()]
    whole = torch.cat([g.flatten() for g in gradient]).norm()
    wanted = float((0.1 * gradient[0].norm(dim=1) / whole / norms).median())
    given = partial(lambda: [g.clone() for g in gradient])
    assert SAM(0.1).relative_strength(model, 0, 10, given) == pytest.approx(wanted)
    assert MSAM(0.1).relative_strength(model, 5, 10, given) == pytest.approx(wanted)
    assert MSAM(0.1).relative_strength(model, 0, 10, given) is None
    t = [model.weight.detach().abs() + 0.01, torch.ones(50, dtype=torch.float64)]
    scaled = torch.cat([(a * g).flatten() for a, g in zip(t, gradient, strict=True)]).norm()
    step = 0.1 * t[0] ** 2 * gradient[0] / scaled
    found = ASAM(0.1).relative_strength(model, 0, 10, given)
    assert found == pytest.approx(float((step.norm(dim=1) / norms).median()))
    assert LPFSGD(0.02, GammaSchedule.cosine, 4.0).relative_strength(model, 10, 10) == pytest.approx(0.02 * 5 * 20)
    squares = gradient[0].norm(dim=1) ** 2 / (1 - 0.99)
    late = float((0.02 * 20 / (1 + 0.1 * squares).sqrt()).median())
    assert ARWP(0.02).relative_strength(model, 5, 10, given) == pytest.approx(late)
    assert ARWP(0.02).relative_strength(model, 0, 10, given) == pytest.approx(0.02 * 20)


@pytest.mark.parametrize(
    "method",
    [
        LPFSGD(0.05, noise_per=NoisePer.batch),
        ARWP(0.05, noise_per=NoisePer.batch),
        NSO(0.05, noise_per=NoisePer.batch, statistics_from=StatisticsFrom.clean),
        LPFSGD(0.05, noise_per=NoisePer.batch, statistics_from=StatisticsFrom.clean),
        MSAM(0.4),
    ],
    ids=lambda method: method.slug,
)
def test_ghost_batches_that_see_the_same_weights_may_go_in_one_pass(method: Method) -> None:
    ends = []
    for ghosts in (GhostPasses.sequential, GhostPasses.batched):
        settings: dict[str, Any] = {"optimizer": SGD(0.1), "schedule": Schedule(2), "batch": Batch(SIZE, 2), "seed": 0}
        trainer = Trainer(
            Convolutional(), split(), split(10, seed=1), method=method, engine=Engine(ghosts=ghosts), **settings
        )
        assert trainer.engine.ghosts is ghosts
        ends.append(trainer.run().model)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "method",
    [LPFSGD(0.05), SAM(), MixedRWP(0.05), NSO(0.05, noise_per=NoisePer.batch), MSAM(0.4, StatisticsFrom.both)],
    ids=lambda method: method.slug,
)
def test_ghost_batches_with_weights_of_their_own_or_several_statistics_go_one_after_another(method: Method) -> None:
    settings: dict[str, Any] = {"optimizer": SGD(0.1), "schedule": Schedule(1), "batch": Batch(SIZE, 2), "seed": 0}
    engine = Engine(ghosts=GhostPasses.batched)
    trainer = Trainer(Convolutional(), split(), split(10, seed=1), method=method, engine=engine, **settings)
    assert trainer.engine.ghosts is GhostPasses.sequential
