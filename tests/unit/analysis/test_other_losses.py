"""Curves of networks that are not classifiers: truth for a regression, whose loss is a quadratic in its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.common import SIGMAS
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import interpolate, noise_curve
from smoothout.analysis.landscape import filter_direction, landscape_line, landscape_plane

IGNORED = -100
Pairs = list[tuple[Tensor, Tensor]]


@pytest.fixture
def regression() -> Pairs:
    """Batches of different sizes, so that examples and batches do not count the same."""
    return [(torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64)) for n in (2, 7, 5)]


def linear() -> nn.Linear:
    return nn.Linear(3, 1, bias=False).double()


def squares(weight: Tensor, batches: Pairs) -> float:
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return float(F.mse_loss(x @ weight.detach().T, y))


def test_a_regression_between_two_networks(regression):
    first, second = linear(), linear()
    for point in interpolate(first, second, regression, [-0.5, 0.0, 0.3, 1.0], loss=F.mse_loss):
        weight = (1 - point.alpha) * first.weight + point.alpha * second.weight
        assert point.loss == pytest.approx(squares(weight, regression), rel=1e-12)
        assert math.isnan(point.accuracy)


def test_a_regression_around_a_network(regression):
    model = linear()
    d, e = (filter_direction(model, 0, index)[0] for index in range(2))
    [point] = landscape_line(model, regression, [0.7], directions=2, loss=F.mse_loss)
    plane = landscape_plane(model, regression, [0.7], [-0.2], loss=F.mse_loss)
    expected = [squares(model.weight + step, regression) for step in (0.7 * d, 0.7 * e, 0.7 * d - 0.2 * e)]
    assert [*point.losses, plane.losses[0][0]] == pytest.approx(expected, rel=1e-12)
    assert all(map(math.isnan, (*point.accuracies, plane.accuracies[0][0])))


def test_a_regression_under_noise_rises_by_the_mean_square_of_its_inputs(regression):
    """E (x (w + theta) - y)^2 = (x w - y)^2 + a^2 |x|^2 / 3 for theta of U(-a, a)."""
    model, a = linear(), 0.4
    regression = [(x, model(x).detach() + 0.1 * y) for x, y in regression]  # large residuals would drown the rise
    start, point = noise_curve(model, regression, [0.0, a], draws=2000, loss=F.mse_loss)
    x = torch.cat([inputs for inputs, _ in regression])
    assert start.loss == pytest.approx(squares(model.weight, regression), rel=1e-12)
    rise = float(a**2 / 3 * x.square().sum(1).mean())
    assert abs(point.loss - start.loss - rise) < SIGMAS * point.loss_error < 0.2 * rise
    assert math.isnan(point.accuracy)
    assert math.isnan(point.accuracy_error)


class Language(nn.Module):
    """Next-token logits (examples, tokens, vocabulary) of a unigram context."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5).double()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.table(tokens)
        return logits


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def tokens(_: Tensor, targets: Tensor) -> float:
    return float((targets != IGNORED).sum())


@pytest.mark.parametrize(
    "measured",
    [
        lambda model, batches, **how: interpolate(model, Language(), batches, [0.0], **how)[0].loss,
        lambda model, batches, **how: noise_curve(model, batches, [0.0], **how)[0].loss,
        lambda model, batches, **how: landscape_line(model, batches, [0.0], **how)[0].losses[0],
    ],
    ids=["interpolation", "noise", "landscape"],
)
def test_tokens_that_count_are_weighed_and_batches_of_padding_left_out(measured: Callable[..., float]):
    model = Language()
    inputs, targets = torch.randint(0, 5, (3, 2, 4)), torch.randint(0, 5, (3, 2, 4))
    targets[0, 0, 1:], targets[2] = IGNORED, IGNORED
    batches: list[tuple[Any, Any]] = list(zip(inputs, targets, strict=True))
    expected = token_loss(model(inputs.flatten(0, 1)), targets.flatten(0, 1)).item()
    assert measured(model, batches, loss=token_loss, weight=tokens) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"^weight: needs a loss"):
        measured(model, batches, weight=tokens)
    with pytest.raises(ValueError, match=r"^loss: .* one number"):
        measured(model, batches, loss=lambda logits, _: logits)
    with pytest.raises(ValueError, match=r"^batches: nothing to measure"):
        measured(model, batches[2:], loss=token_loss, weight=tokens)
