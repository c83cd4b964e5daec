"""The loss around a trained network, along random directions that are as long as its filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.full_loss import Batches, Tick, check_batches, check_counts
from smoothout.choices import choice
from smoothout.evaluation import Measured, evaluate
from smoothout.parameters import restored, trainable
from smoothout.perturbation import scale_to_filters
from smoothout.randomness import stream

PUBLISHED_ALPHAS = tuple(round(-1 + 0.1 * i, 10) for i in range(21))


class OneDimensional(StrEnum):
    """What a direction is in one-dimensional tensors: biases, BatchNorm's weight and bias."""

    scaled = "scaled"  # each number is a filter: +-|w_i|, as in the program of SmoothOut's authors
    zero = "zero"  # they stay as they are, as in Li et al.


class LandscapePoint(NamedTuple):
    """The network at ``alpha``: mean loss (nats) and accuracy (share) along each direction."""

    alpha: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Plane:
    """``losses[i][j]`` (nats) and ``accuracies[i][j]`` (shares) at w + alphas[i] d_0 + betas[j] d_1."""

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    accuracies: tuple[tuple[float, ...], ...]


def filter_direction(
    model: nn.Module, seed: int, index: int, *, one_dimensional: OneDimensional | str = OneDimensional.scaled
) -> list[Tensor]:
    """[Li 2018, directions] A Gaussian direction with the model's own filter norms: d_i ||w_i|| / ||d_i||.

    One tensor a trainable parameter, in its shape, dtype and device and in the model's order. The draw depends on
    ``seed`` and ``index`` alone: it is made on the CPU in float32. SmoothOut's authors draw from U(-1, 1) instead.

    Raises:
        ValueError: on an unknown choice for one-dimensional tensors, or a model without trainable parameters.
    """
    choice(OneDimensional, "one_dimensional", one_dimensional)
    generator = stream(seed, "direction", index)
    direction = []
    for weight in trainable(model):
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
        left_alone = weight.dim() < 2 and one_dimensional == OneDimensional.zero
        direction.append(drawn.zero_() if left_alone else scale_to_filters(drawn, weight.detach()))
    return direction


def landscape_line(
    model: nn.Module,
    batches: Batches,
    alphas: Sequence[float] = PUBLISHED_ALPHAS,
    *,
    directions: int = 1,
    seed: int = 0,
    one_dimensional: OneDimensional | str = OneDimensional.scaled,
    tick: Tick = lambda: None,
) -> list[LandscapePoint]:
    """[SmoothOut Fig. 6] Evaluate w + alpha d along each of ``directions`` filter-normalised directions d.

    Evaluation mode; BatchNorm's running averages are kept. alpha = 0 gives the model's own numbers exactly. The
    directions are those of index 0, 1, ... of ``seed``: a band over them says how much a single one tells. The model
    is given back to the last bit, also after an exception. ``tick`` is called after every evaluation.

    Raises:
        ValueError: where there is no direction, for batches that are empty or allow one pass only, and as
            `filter_direction`.
    """
    check_counts(directions=directions)
    check_batches("batches", batches)
    columns = []
    with restored(model):
        start = [weight.detach().clone() for weight in trainable(model)]
        for index in range(directions):
            move_to(model, start)
            direction = filter_direction(model, seed, index, one_dimensional=one_dimensional)
            columns.append([_measure_at(model, batches, start, [(a, direction)], tick) for a in alphas])
    rows = zip(*columns, strict=True)
    return [
        LandscapePoint(float(alpha), tuple(m.loss for m in row), tuple(m.accuracy for m in row))
        for alpha, row in zip(alphas, rows, strict=True)
    ]


def landscape_plane(
    model: nn.Module,
    batches: Batches,
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    seed: int = 0,
    one_dimensional: OneDimensional | str = OneDimensional.scaled,
    tick: Tick = lambda: None,
) -> Plane:
    """[Li 2018, planes] Evaluate w + alpha d_0 + beta d_1 over a grid; d_0 and d_1 are those of `landscape_line`.

    The two directions are not made orthogonal: in high dimension they nearly are. Everything else is as in
    `landscape_line`, whose first direction is this plane's row beta = 0.

    Raises:
        ValueError: for batches that are empty or allow one pass only, and as `filter_direction`.
    """
    check_batches("batches", batches)
    with restored(model):
        start = [weight.detach().clone() for weight in trainable(model)]
        first, second = (filter_direction(model, seed, i, one_dimensional=one_dimensional) for i in range(2))
        grid = [
            [_measure_at(model, batches, start, [(alpha, first), (beta, second)], tick) for beta in betas]
            for alpha in alphas
        ]
    return Plane(
        alphas=tuple(map(float, alphas)),
        betas=tuple(map(float, betas)),
        losses=tuple(tuple(m.loss for m in row) for row in grid),
        accuracies=tuple(tuple(m.accuracy for m in row) for row in grid),
    )


@torch.no_grad()
def move_to(model: nn.Module, weights: Sequence[Tensor], steps: Sequence[tuple[float, Sequence[Tensor]]] = ()) -> None:
    """Set the trainable parameters to ``weights`` plus each step (length, direction), in place."""
    for index, parameter in enumerate(trainable(model)):
        parameter.copy_(weights[index])
        for length, direction in steps:
            parameter.add_(direction[index], alpha=length)


def _measure_at(
    model: nn.Module,
    batches: Batches,
    start: Sequence[Tensor],
    steps: Sequence[tuple[float, Sequence[Tensor]]],
    tick: Tick,
) -> Measured:
    move_to(model, start, steps)
    measured = evaluate(model, batches)
    tick()
    return measured
