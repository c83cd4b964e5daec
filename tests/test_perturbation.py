"""SmoothOut's noise: weights that come back, the laws, the strengths, and the smoothed loss in closed form."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smoothout import AdaSmoothOut, SmoothOut, SmoothOutCopies
from smoothout.parameters import filter_norms
from smoothout.perturbation import Course, Draw, Law, Noise, Scaling, course_factor, scale_to_filters
from smoothout.randomness import stream

LAWS = list(Law)
SCALINGS = list(Scaling)
BUFFERS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
# noise relative to the weights leaves BatchNorm's bias at the 0 that it starts with
ZEROS: dict[str, set[str]] = {Scaling.none: set(), Scaling.weight: {"norm.bias"}, Scaling.filter: {"norm.bias"}}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(model: nn.Module) -> dict[str, list[int]]:
    """Every byte of a model's state."""
    state = model.state_dict().items()
    return {name: t.detach().reshape(-1).contiguous().view(torch.uint8).tolist() for name, t in state}


def thetas(context: SmoothOut) -> list[Tensor]:
    """A draw at the present weights, kept."""
    return [theta.clone() for theta in context.draw()]


class Mixed(nn.Module):
    """Three precisions, BatchNorm, a frozen layer, a tied weight, a channels-last kernel and a lone number."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Linear(30, 40)
        self.half = nn.Linear(40, 30).bfloat16()
        self.double = nn.Linear(30, 20).double()
        self.kernel = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(20)
        self.frozen = nn.Linear(20, 20).requires_grad_(False)
        self.tied = nn.Linear(30, 40)
        self.tied.weight = self.single.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        with torch.no_grad():  # weights of every size, signed zeros among them: what adding and subtracting spoils
            for parameter in self.parameters():
                parameter.mul_(2.0 ** torch.randint(-20, 6, parameter.shape))
                if parameter.dim() > 1:
                    parameter[(0,) * parameter.dim()] = -0.0


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


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)


# The weights come back


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_weights_come_back_to_the_last_bit_also_after_an_exception(fails: bool, law: str, scaling: str) -> None:
    model = Mixed()
    before = bits(model)
    with suppress(KeyboardInterrupt), SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True):
        inside = bits(model)
        if fails:
            raise KeyboardInterrupt
    assert bits(model) == before
    frozen = {name for name in before if name.startswith("frozen") or name in BUFFERS}
    assert {name for name in before if inside[name] == before[name]} == frozen | ZEROS[scaling]


def test_the_weights_come_back_to_the_last_bit_when_the_step_before_was_an_update() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    context = SmoothOut(model, 0.1)
    for step in range(5):
        clean = bits(model)
        with context:
            F.cross_entropy(model(examples(6, step)[0]), examples(6, step)[1]).backward()
        parameters = {name for name, _ in model.named_parameters()}
        assert {k: v for k, v in bits(model).items() if k in parameters} == {
            k: v for k, v in clean.items() if k in parameters
        }
        optimizer.step()
        assert bits(model)["0.weight"] != clean["0.weight"]


def test_adding_and_subtracting_the_noise_would_not_give_the_weights_back() -> None:
    """The reason for the copy: this model and this noise do lose bits the other way."""
    model = nn.Linear(100, 100)
    before = model.weight.detach().clone()
    [theta, _] = thetas(SmoothOut(model, 0.0375))
    lost = ((before + theta) - theta != before).float().mean()
    assert lost > 0.1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_parameters_keep_their_identity_and_layout_and_get_their_place_in_memory_back(
    memory_format: torch.memory_format,
) -> None:
    model = Mixed().to(memory_format=memory_format)
    places = [(id(p), p.stride(), p.data_ptr()) for p in model.parameters()]
    context = SmoothOut(model, 0.1)
    with context:
        assert [(id(p), p.stride()) for p in model.parameters()] == [place[:2] for place in places]
    assert [(id(p), p.stride(), p.data_ptr()) for p in model.parameters()] == places
    assert all(p.is_leaf and p.grad is None for p in model.parameters())


def test_a_model_may_change_its_layout_after_the_context_was_made() -> None:
    model = nn.Conv2d(3, 4, 3)
    context = SmoothOut(model, 0.1, generator=seeded(0))
    with context:
        before = model.weight.detach().clone()
    model.to(memory_format=torch.channels_last)
    context.generator = seeded(0)
    with context:
        assert model.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(model.weight, before)


def test_a_state_dict_taken_outside_stays_clean_inside() -> None:
    model = Mixed()
    outside = model.state_dict()
    before = copy.deepcopy(outside)
    with SmoothOut(model, 0.1):
        assert all(torch.equal(outside[name], before[name]) for name in before)
        assert not torch.equal(model.state_dict()["single.weight"], before["single.weight"])


def test_a_backward_pass_outside_the_context_is_refused() -> None:
    """It would see the clean weights where the forward pass saw the perturbed ones."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with SmoothOut(model, 0.1):
        loss = model(torch.randn(5, 3)).square().sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_compiled_model_sees_the_noise_of_every_entry() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, context = torch.randn(5, 3), SmoothOut(model, 0.1)
    compiled(x)
    for _ in range(3):
        with context:
            assert torch.allclose(compiled(x), model(x), atol=1e-6)
        assert torch.allclose(compiled(x), model(x), atol=1e-6)


def test_a_model_without_batchnorm_is_perturbed_alike_with_and_without_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    both = [thetas(SmoothOut(model, 0.1, batchnorm=choice, generator=seeded(1))) for choice in (False, True)]
    assert len(both[0]) == 6
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


@pytest.mark.parametrize("batchnorm", [False, True])
def test_batchnorms_weight_and_bias_are_perturbed_only_on_demand(batchnorm: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = bits(model)
    with SmoothOut(model, 0.1, batchnorm=batchnorm):
        changed = {name for name, value in bits(model).items() if value != before[name]}
    others = {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert changed == others | ({"1.weight", "1.bias", "4.weight", "4.bias"} if batchnorm else set())


def test_a_tied_weight_is_perturbed_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    [theta] = thetas(SmoothOut(model, 0.1, generator=seeded(2)))
    with SmoothOut(model, 0.1, generator=seeded(2)):
        assert torch.equal(model[0].weight, before + theta)


# Entering


def test_noise_is_drawn_afresh_at_every_entry() -> None:
    model = nn.Linear(20, 20)
    context = SmoothOut(model, 0.1)
    inside = []
    for _ in range(4):
        with context as entered:
            assert entered is context
            inside.append(model.weight.detach().clone())
    assert all((inside[i] != inside[j]).float().mean() > 0.99 for i in range(4) for j in range(i))


def test_the_same_generator_state_gives_the_same_noise() -> None:
    model = nn.Linear(20, 20)
    context = SmoothOut(model, 0.1, generator=seeded(5))
    with context:
        first = bits(model)
    with context:
        assert bits(model) != first
    context.generator = seeded(5)
    with context:
        assert bits(model) == first


@pytest.mark.parametrize("law", LAWS)
def test_without_a_generator_the_noise_is_torchs_global_chance(law: str) -> None:
    model = Mixed()
    context = SmoothOut(model, 0.1, law)
    inside = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with context:
            inside.append(bits(model))
    assert inside[0] == inside[1] != inside[2]


@pytest.mark.parametrize("law", LAWS)
def test_with_a_generator_the_global_chance_is_left_alone(law: str) -> None:
    model = Mixed()
    before = torch.get_rng_state()
    with SmoothOut(model, 0.1, law, generator=seeded(1)):
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_entering_twice_is_refused_and_does_no_harm() -> None:
    model = nn.Linear(20, 20)
    before = bits(model)
    context = SmoothOut(model, 0.1)
    with context:
        inside = bits(model)
        with pytest.raises(RuntimeError, match="already entered"):
            context.__enter__()
        assert bits(model) == inside
    assert bits(model) == before
    with context:
        assert bits(model) != before
    assert bits(model) == before


def test_an_entry_that_is_interrupted_leaves_the_weights_clean_and_the_context_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(20, 20)
    before = bits(model)
    context = SmoothOut(model, 0.1)

    increment_version, calls = torch.autograd.graph.increment_version, []

    def interrupted_once(tensors: list[Tensor]) -> None:
        calls.append(tensors)
        if len(calls) == 1:
            raise KeyboardInterrupt
        increment_version(tensors)

    with monkeypatch.context() as patched:
        patched.setattr(torch.autograd.graph, "increment_version", interrupted_once)
        with pytest.raises(KeyboardInterrupt):
            context.__enter__()
    assert bits(model) == before
    with context:
        assert bits(model) != before
    assert bits(model) == before


def test_two_contexts_on_one_model_add_their_noise_and_undo_it_in_turn() -> None:
    model = nn.Linear(20, 20)
    before = model.weight.detach().clone()
    with SmoothOut(model, 0.1):
        middle = model.weight.detach().clone()
        with SmoothOut(model, 0.1):
            assert 0.1 < (model.weight - before).abs().max() <= 0.2001
        assert torch.equal(model.weight, middle)
    assert torch.equal(model.weight, before)


def test_the_strength_may_change_between_entries() -> None:
    model = nn.Linear(20, 20)
    before = bits(model)
    context = SmoothOut(model, 0.1)
    context.a = 0.0
    with context:
        assert bits(model) == before
    context.a = 5.0
    with context:
        assert bits(model) != before


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_the_noise_left_in_the_weights_are_exactly_w_plus_theta(law: str, scaling: str) -> None:
    model = Mixed()
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    drawn = thetas(SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True, generator=seeded(7)))
    with SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True, denoise=False, generator=seeded(7)):
        pass
    found = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.equal(p, w + theta) for p, w, theta in zip(found, before, drawn, strict=True))
    assert any(theta.any() for theta in drawn)


# The laws


def test_uniform_noise_stays_within_its_strength_and_fills_it() -> None:
    a = 0.0375
    [theta, _] = thetas(SmoothOut(nn.Linear(200, 200), a))
    assert theta.abs().max() <= torch.tensor(a)
    assert theta.abs().max() > 0.999 * a
    assert stats.kstest(theta.flatten().numpy(), stats.uniform(-a, 2 * a).cdf).pvalue > 1e-3


def test_gaussian_noise_has_its_strength_as_standard_deviation() -> None:
    a, n = 0.025, 200 * 200
    [theta, _] = thetas(SmoothOut(nn.Linear(200, 200), a, "gaussian"))
    x = theta.double().flatten() / a
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((x**power).mean()) - mean) < 4 * math.sqrt(variance / n)
    assert stats.kstest(x.numpy(), stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("law", "cdf"), [("uniform", stats.uniform(-1, 2).cdf), ("gaussian", stats.norm.cdf)])
def test_weight_scaling_makes_the_noise_a_share_of_each_weight(law: str, cdf: Callable[[Any], Any]) -> None:
    model = nn.Linear(200, 200)
    with torch.no_grad():
        model.bias.zero_()
    a = 0.15
    [theta, bias] = thetas(SmoothOut(model, a, law, scaling="weight"))
    assert stats.kstest((theta / (a * model.weight.abs())).detach().flatten().numpy(), cdf).pvalue > 1e-3
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
    torch.testing.assert_close(drawn.abs().median(0).values, wanted, rtol=1e-5, atol=0)
    assert (drawn.abs() <= wanted * (1 + 1e-6)).all()
    for place in (0, 1, 3):
        assert 160 < int((drawn[:, place] > 0).sum()) < 240  # 4 standard deviations of 400 fair coins are 40


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
    assert scale_to_filters(given, weight, 0.2) is given
    torch.testing.assert_close(given, wanted)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"a": -0.1}, "^a: .*-0.1"),
        ({"a": math.nan}, "^a: .*nan"),
        ({"a": math.inf}, "^a: .*inf"),
        ({"noise": "cauchy"}, "^noise: 'cauchy' is not one of uniform, gaussian"),
        ({"scaling": "layer"}, "^scaling: 'layer' is not one of none, weight, filter"),
        ({"model": nn.Linear(1, 1).requires_grad_(False)}, "^the model has no trainable parameters"),
        ({"model": nn.BatchNorm1d(1)}, "^the model has no trainable parameters outside BatchNorm"),
    ],
)
def test_smoothout_names_the_argument_that_it_refuses(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        SmoothOut(**{"model": nn.Linear(1, 1), "a": 0.1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"a": -0.1}, "^a: .*-0.1"),
        ({"a": math.nan}, "^a: .*nan"),
        ({"a": 0.1, "copies": -1}, "^copies: .*-1"),
        ({"a": 0.1, "copies": 2, "denoise": False}, "^copies: .*denoise"),
        ({"a": 0.1, "copies": 2, "course": Course.anneal}, "^copies: .*course"),
    ],
)
def test_noise_names_the_setting_that_it_refuses(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Noise(**arguments)


@pytest.mark.parametrize("copies", [0, -2])
def test_fewer_than_one_copy_is_refused(copies: int) -> None:
    with pytest.raises(ValueError, match=f"^copies: .*{copies}"):
        SmoothOutCopies(SmoothOut(nn.Linear(1, 1), 0.1), copies)


# Settings


def test_noise_settings_make_the_context_that_they_describe() -> None:
    model = network()
    for noise in [Noise(0.1), Noise(0.2, Law.gaussian, Scaling.filter, batchnorm=True), Noise(0.3, denoise=False)]:
        context = noise.on(model)
        context.generator = seeded(3)
        wanted = SmoothOut(
            model,
            noise.a,
            noise.law,
            scaling=noise.scaling,
            batchnorm=noise.batchnorm,
            denoise=noise.denoise,
            generator=seeded(3),
        )
        assert context.denoise is noise.denoise
        assert all(torch.equal(a, b) for a, b in zip(thetas(context), thetas(wanted), strict=True))


def test_without_strength_no_other_noise_setting_counts() -> None:
    idle = Noise(0.0, Law.gaussian, Scaling.filter, True, False, Draw.batch, Course.anneal)
    assert idle.simplified() == Noise()
    assert Noise(0.1, Law.gaussian).simplified() == Noise(0.1, Law.gaussian)


@pytest.mark.parametrize(
    ("noise", "slug"),
    [
        (Noise(), "baseline"),
        (Noise(0.0375), "smoothout0.0375"),
        (Noise(0.15, scaling=Scaling.filter), "adasmoothout0.15"),
        (Noise(0.1, scaling=Scaling.weight), "weightsmoothout0.1"),
    ],
)
def test_noise_has_a_short_name(noise: Noise, slug: str) -> None:
    assert noise.slug == slug


@pytest.mark.parametrize(
    ("course", "step", "total", "factor"),
    [
        (Course.constant, 0, 10, 1.0),
        (Course.constant, 10, 10, 1.0),
        (Course.anneal, 0, 10, 1.0),
        (Course.anneal, 1, 10, 0.826),
        (Course.anneal, 100, 1000, 0.281),
        (Course.anneal, 1000, 1000, 0.150),
        (Course.anneal, 39200, 40000, 0.055),
        (Course.tanh_rising, 0, 200, 1 / (1 + math.exp(10))),
        (Course.tanh_rising, 50, 200, 1 / (1 + math.exp(5))),
        (Course.tanh_rising, 100, 200, 0.5),
        (Course.tanh_rising, 120, 200, 1 / (1 + math.exp(-2))),
        (Course.tanh_rising, 200, 200, 1 / (1 + math.exp(-10))),
        (Course.tanh_falling, 0, 200, 1 / (1 + math.exp(-10))),
        (Course.tanh_falling, 100, 200, 0.5),
        (Course.tanh_falling, 120, 200, 1 / (1 + math.exp(2))),
        (Course.tanh_falling, 200, 200, 1 / (1 + math.exp(10))),
    ],
)
def test_the_strength_follows_the_released_programs_courses(
    course: Course, step: int, total: int, factor: float
) -> None:
    tolerance = {"abs": 5e-4} if course is Course.anneal else {"rel": 1e-9}
    assert course_factor(course, step, total) == pytest.approx(factor, **tolerance)
    assert Noise(0.2, course=course).strength(step, total) == pytest.approx(0.2 * factor, **tolerance)


@pytest.mark.parametrize("course", ["constant", "anneal", "tanh_rising"])
def test_a_course_may_be_given_as_text(course: str) -> None:
    given, wanted = Noise(0.2, course=course), Noise(0.2, course=Course(course))  # type: ignore[arg-type]
    assert given.strength(90, 100) == wanted.strength(90, 100)


@pytest.mark.parametrize("field", ["law", "scaling", "draw", "course"])
def test_noise_refuses_a_choice_that_there_is_not(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(Noise(0.1), **{field: "cauchy"})


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
    assert abs(float(seen.mean()) - (clean + rise)) < 4 * error
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
    assert abs(float(seen.mean()) - (clean + rise)) < 4 * error
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
                    model.first.view(-1)[place] += sign * 1e-4
                    heights.append(float(model()))
                    model.first.view(-1)[place] -= sign * 1e-4
                slopes.append((heights[0] - heights[1]) / 2e-4)
    torch.testing.assert_close(model.gradient()[:4], torch.tensor(slopes, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.gradient(), model.gradient_at(model.flat().detach() + drawn))


def test_accumulated_micro_batches_with_noise_of_their_own_are_the_mean_of_their_gradients() -> None:
    model = network().double()
    batches = [(x.double(), y) for x, y in (examples(6, seed) for seed in range(4))]
    wanted = [torch.zeros_like(p) for p in model.parameters()]
    for index, (inputs, labels) in enumerate(batches):
        drawn = thetas(SmoothOut(model, 0.2, batchnorm=True, generator=stream(0, "noise", index)))
        moved = [(p.detach() + theta).requires_grad_() for p, theta in zip(model.parameters(), drawn, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        loss = F.cross_entropy(functional_call(model, dict(zip(names, moved, strict=True)), (inputs,)), labels)
        gradients = torch.autograd.grad(loss, moved)
        wanted = [total + gradient / len(batches) for total, gradient in zip(wanted, gradients, strict=True)]
    context = SmoothOut(model, 0.2, batchnorm=True)
    for index, (inputs, labels) in enumerate(batches):
        context.generator = stream(0, "noise", index)
        with context:
            (F.cross_entropy(model(inputs), labels) / len(batches)).backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("kind", [SmoothOut, AdaSmoothOut])
def test_noise_works_under_autocast_in_bfloat16(kind: type[SmoothOut]) -> None:
    model, (inputs, labels) = network(), examples(64)
    before = [p.detach().clone() for p in model.parameters()]

    def gradient(enabled: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), kind(model, 0.2, generator=seeded(2)):
            logits = model(inputs)
            F.cross_entropy(logits.float(), labels).backward()
        assert logits.dtype is (torch.bfloat16 if enabled else torch.float32)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    low, full = gradient(True), gradient(False)
    assert low.dtype is torch.float32
    assert 0 < float((low - full).norm() / full.norm()) < 0.03
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


def test_every_entry_within_one_autocast_block_sees_its_own_noise() -> None:
    model, (inputs, _) = network().eval(), examples(8)
    context, seen = SmoothOut(model, 0.5), []
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            with context:
                seen.append(model(inputs))
        seen.append(model(inputs))
    assert all(not torch.equal(seen[i], seen[j]) for i in range(4) for j in range(i))


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
        drawn = thetas(SmoothOut(model, 0.2, generator=stream(3, "copy", index)))
        by_hand.append(model.gradient_at(w + torch.cat([t.reshape(-1) for t in drawn])))
    copies = SmoothOutCopies(SmoothOut(model, 0.2), count, seed=3)
    for one in copies:
        with one:
            (model() / len(copies)).backward()
    torch.testing.assert_close(model.gradient(), torch.stack(by_hand).mean(0))
    assert not torch.allclose(model.gradient(), model.gradient_at(w), rtol=1e-2)


def test_the_gradient_over_many_copies_approaches_that_of_the_smoothed_quadratic() -> None:
    """A quadratic's gradient is linear, so its mean over the noise is the gradient at w; each copy adds H theta."""
    model, a, count = Quadratic(), 0.5, 2000
    for one in SmoothOutCopies(SmoothOut(model, a), count):
        with one:
            (model() / count).backward()
    away = model.gradient() - model.gradient_at(model.flat().detach())
    errors = (model.hessian.square().sum(1) * a * a / 3 / count).sqrt()
    assert (away.abs() < 4 * errors).all()
    assert (away.abs() > 0.001 * errors).all()


def test_copies_are_a_sequence_of_their_number() -> None:
    copies = SmoothOutCopies(SmoothOut(nn.Linear(1, 1), 0.1), 4)
    assert len(copies) == 4
    assert len(list(copies)) == 4
    with pytest.raises(IndexError):
        copies[4]


def test_copies_of_another_seed_have_other_noise() -> None:
    model = Quadratic()
    seen = []
    for seed in (0, 0, 1):
        with SmoothOutCopies(SmoothOut(model, 0.1), 1, seed)[0]:
            seen.append(model.flat().detach().clone())
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_copies_taken_out_of_the_sequence_keep_their_own_noise() -> None:
    model = Quadratic()
    copies = SmoothOutCopies(SmoothOut(model, 0.1), 2)
    with copies[0]:
        wanted = model.flat().detach().clone()
    first, _ = copies
    with first:
        assert torch.equal(model.flat(), wanted)


def test_a_copy_has_the_same_noise_when_it_is_entered_again() -> None:
    model = Quadratic()
    one = SmoothOutCopies(SmoothOut(model, 0.1), 2)[0]
    seen = []
    for _ in range(2):
        with one:
            seen.append(model.flat().detach().clone())
    assert torch.equal(seen[0], seen[1])
