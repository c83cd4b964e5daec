"""The mean loss: how much a batch counts, gradients of all kinds, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.hessians import dense, network
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import HessianVectorProduct, hessian_spectrum, top_eigenvalues, trace_and_norm

MEASURES: list[Callable[..., Any]] = [
    lambda *given, **weight: sharpness(*given, **weight).loss,
    lambda *given, **weight: adaptive_sharpness(*given, 0.1, **weight).loss,
    lambda *given, **weight: top_eigenvalues(*given, **weight).values[0],
    lambda *given, **weight: trace_and_norm(*given, probes=2, **weight).trace.mean,
    lambda *given, **weight: hessian_spectrum(*given, probes=1, steps=3, **weight).ritz[0][0],
]
BATCHES = pytest.mark.parametrize("measure", MEASURES)


def cross_entropy_of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def tokens(inputs: Tensor, targets: Tensor) -> Tensor:
    return (targets != -100).sum()


@pytest.fixture
def sentences() -> list[tuple[Tensor, Tensor]]:
    """Batches of 4, 2 and 1 sentences of three tokens, of which 10, 2 and 0 count."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for count, ignored in ((4, [0, 7]), (2, [0, 1, 2, 4]), (1, [0, 1, 2])):
        labels = torch.randint(0, 3, (count, 3), generator=generator)
        labels.view(-1)[ignored] = -100
        made.append((torch.randn(count, 3, 3, generator=generator, dtype=torch.float64), labels))
    return made


@BATCHES
def test_batches_that_are_weighed_by_their_tokens_give_the_mean_over_all_tokens(
    measure: Callable[..., Any], sentences: list[tuple[Tensor, Tensor]]
) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    whole = [tuple(torch.cat(column) for column in zip(*sentences, strict=True))]
    wanted = measure(model, whole, cross_entropy_of_tokens)
    assert measure(model, sentences, cross_entropy_of_tokens, weight=tokens) == pytest.approx(wanted, rel=1e-6)
    assert measure(model, sentences[:2], cross_entropy_of_tokens) != pytest.approx(wanted, rel=1e-6)


@BATCHES
@pytest.mark.parametrize("wrap", [lambda y: (y, None), lambda y: {"labels": y}, lambda y: torch.tensor(1)])
def test_targets_that_do_not_tell_their_number_need_a_weight(
    measure: Callable[..., Any], wrap: Callable[[Tensor], Any], batches: list[tuple[Tensor, Tensor]]
) -> None:
    model, wrapped = network(), [(x, wrap(y)) for x, y in batches]

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        return outputs.square().mean()

    with pytest.raises(ValueError, match=r"^batches: targets .* weight"):
        measure(model, wrapped, loss)
    wanted = measure(model, batches, loss)
    assert measure(model, wrapped, loss, weight=lambda inputs, _: len(inputs)) == pytest.approx(wanted, rel=1e-12)


# Models


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.into(inputs.unsqueeze(1) + torch.eye(3, dtype=inputs.dtype))
        outputs: Tensor = self.out(F.scaled_dot_product_attention(x, x, x).mean(1))
        return outputs


def test_the_hessian_of_a_model_with_attention_is_the_dense_one(batches: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    model = Attention().double()
    found = torch.from_numpy(HessianVectorProduct(model, batches, F.cross_entropy).matrix())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.testing.assert_close(found, dense(model, batches), rtol=1e-10, atol=1e-12)


def test_sparse_gradients_count_as_those_written_out() -> None:
    torch.manual_seed(0)
    sparse = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)).double()
    written = copy.deepcopy(sparse)
    written[0].sparse = False
    batches = [(torch.randint(0, 3, (7, 2)), torch.randint(0, 3, (7,)))]
    for measure in (sharpness, lambda *given: HessianVectorProduct(*given).matrix().tolist()):
        assert measure(sparse, batches, F.cross_entropy) == measure(written, batches, F.cross_entropy)


# What is refused


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (torch.ones(2, 3), "Tensor"),
        ((torch.ones(2, 3), torch.zeros(2), torch.zeros(2)), "3 elements"),
    ],
)
def test_batches_that_are_no_pairs_are_refused_in_one_line_that_says_how_to_make_them(batch: Any, found: str) -> None:
    model = nn.Linear(3, 3)
    uses: list[Callable[[], object]] = [
        *(lambda measure=measure: measure(model, [batch], F.cross_entropy) for measure in MEASURES),
        lambda: interpolate(model, model, [batch]),
        lambda: noise_curve(model, [batch], [0.1]),
        lambda: noise_curve(model, [batch], [0.1], draws=2),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=rf"^batches: .* pair \(inputs, targets\) .* {found}; .*\[\(") as raised:
            use()
        assert "\n" not in str(raised.value)
