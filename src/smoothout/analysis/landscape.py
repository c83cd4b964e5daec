"""The loss around a trained network, along random directions that are as long as its filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts, linspace
from smoothout.analysis.empirical_risk import Batches, Loss, Tick, Weight, check_batches
from smoothout.analysis.mean_loss import accumulator_for
from smoothout.analysis.options import BiasDirection
from smoothout.common.enums import parse_enum
from smoothout.common.rng import make_generator
from smoothout.nn.evaluation import EvalResult, evaluate
from smoothout.nn.parameters import clear_weight_caches, concatenate, preserve_state, trainable_parameters, unflatten
from smoothout.nn.perturbation import filter_normalize_

Directions = Sequence[Sequence[Tensor]]  # each one tensor a trainable parameter, in its shape

PUBLISHED_ALPHAS = tuple(linspace(-1.0, 1.0, 21))


class LandscapePoint(NamedTuple):
    """The network at ``alpha``: mean loss (nats) and accuracy (share) along each direction."""

    alpha: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class LandscapePlane:
    """``losses[i][j]`` (nats) and ``accuracies[i][j]`` (shares) at w + alphas[i] d_0 + betas[j] d_1."""

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    accuracies: tuple[tuple[float, ...], ...]


def filter_direction(
    model: nn.Module, seed: int, index: int, *, one_dimensional: BiasDirection | str = BiasDirection.scaled
) -> list[Tensor]:
    """[Li 2018, directions] A Gaussian direction with the model's own filter norms: d_i ||w_i|| / ||d_i||.

    One tensor a trainable parameter, in its shape, dtype and device and in the model's order. The draw depends on
    ``seed`` and ``index`` alone: it is made on the CPU in float32. SmoothOut's authors draw from U(-1, 1) instead.

    Raises:
        ValueError: on an unknown choice for one-dimensional tensors, or a model without trainable parameters.
    """
    one_dimensional = parse_enum(BiasDirection, "one_dimensional", one_dimensional)
    generator, weights = make_generator(seed, "direction", index), trainable_parameters(model)
    draws = [torch.randn(weight.shape, generator=generator, dtype=torch.float32) for weight in weights]
    direction = []
    for weight, drawn in zip(weights, unflatten(concatenate(draws), weights), strict=True):
        left_alone = weight.dim() < 2 and one_dimensional is BiasDirection.zero
        direction.append(drawn.zero_() if left_alone else filter_normalize_(drawn, weight.detach()))
    return direction


def landscape_line(
    model: nn.Module,
    batches: Batches,
    alphas: Iterable[float] = PUBLISHED_ALPHAS,
    *,
    directions: int | Directions = 1,
    seed: int = 0,
    one_dimensional: BiasDirection | str = BiasDirection.scaled,
    loss: Loss | None = None,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> list[LandscapePoint]:
    """[SmoothOut Fig. 6] Evaluate w + alpha d along each of ``directions`` filter-normalised directions d.

    Evaluation mode; BatchNorm's running averages are kept. alpha = 0 gives the model's own numbers exactly. The
    directions are those of index 0, 1, ... of ``seed``: a band over them says how much a single one tells. Directions
    of your own are taken as they are: each a list of one tensor a trainable parameter, in its shape. Parameters that
    require no gradient stay. The model is given back to the last bit, also after an exception. ``tick`` is called after
    every evaluation. For what is no classifier of single labels there are ``loss`` and ``weight``, as for `sharpness`;
    accuracies are then nan.

    Raises:
        ValueError: where there is no direction, or one of other shapes, for batches that are empty or allow one pass
            only, for a weight without a loss, and as `filter_direction`.
    """
    check_batches("batches", batches)
    alphas, columns = list(map(float, alphas)), []
    measure = partial(evaluate, model, batches, tally=accumulator_for(loss, weight))
    with preserve_state(model):
        start = [parameter.detach().clone() for parameter in trainable_parameters(model)]
        for direction in _directions(model, directions, seed, one_dimensional):
            columns.append([_measure_at(model, start, [(a, direction)], measure, tick) for a in alphas])
            set_parameters(model, start)  # the next one is as long as the filters there
    rows = zip(*columns, strict=True)
    return [
        LandscapePoint(alpha, tuple(m.loss for m in row), tuple(m.accuracy for m in row))
        for alpha, row in zip(alphas, rows, strict=True)
    ]


def landscape_plane(
    model: nn.Module,
    batches: Batches,
    alphas: Iterable[float],
    betas: Iterable[float],
    *,
    directions: Directions | None = None,
    seed: int = 0,
    one_dimensional: BiasDirection | str = BiasDirection.scaled,
    loss: Loss | None = None,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> LandscapePlane:
    """[Li 2018, planes] Evaluate w + alpha d_0 + beta d_1 over a grid; d_0 and d_1 are those of `landscape_line`.

    The two directions are not made orthogonal: in high dimension they nearly are. ``directions`` are two of your own
    instead. Everything else is as in `landscape_line`, whose first direction is this plane's row beta = 0.

    Raises:
        ValueError: for other than two directions, and as `landscape_line`.
    """
    if directions is not None and len(directions) != 2:
        raise ValueError(f"directions: a plane has two, not {len(directions)}")
    check_batches("batches", batches)
    alphas, betas = list(map(float, alphas)), list(map(float, betas))
    measure = partial(evaluate, model, batches, tally=accumulator_for(loss, weight))
    with preserve_state(model):
        start = [parameter.detach().clone() for parameter in trainable_parameters(model)]
        first, second = _directions(model, directions or 2, seed, one_dimensional)
        grid = [
            [_measure_at(model, start, [(alpha, first), (beta, second)], measure, tick) for beta in betas]
            for alpha in alphas
        ]
    return LandscapePlane(
        alphas=tuple(alphas),
        betas=tuple(betas),
        losses=tuple(tuple(m.loss for m in row) for row in grid),
        accuracies=tuple(tuple(m.accuracy for m in row) for row in grid),
    )


def _directions(
    model: nn.Module, directions: int | Directions, seed: int, one_dimensional: BiasDirection | str
) -> Iterator[Sequence[Tensor]]:
    """The first so many of ``seed``, each drawn at the model's weights when asked for, or those that are given."""
    if isinstance(directions, int):
        check_counts(directions=directions)
        yield from (filter_direction(model, seed, i, one_dimensional=one_dimensional) for i in range(directions))
        return
    weights = trainable_parameters(model)
    shapes = [tuple(weight.shape) for weight in weights]
    if not directions or any([tuple(one.shape) for one in direction] != shapes for direction in directions):
        raise ValueError(f"directions: each must hold one tensor a trainable parameter, of the shapes {shapes}")
    yield from ([step.to(w) for step, w in zip(direction, weights, strict=True)] for direction in directions)


@torch.no_grad()
def set_parameters(
    model: nn.Module, weights: Sequence[Tensor], steps: Sequence[tuple[float, Sequence[Tensor]]] = ()
) -> None:
    """Set the trainable parameters to ``weights`` plus each step (length, direction), in place."""
    for index, parameter in enumerate(trainable_parameters(model)):
        parameter.copy_(weights[index])
        for length, direction in steps:
            parameter.add_(direction[index], alpha=length)
    clear_weight_caches()


def _measure_at(
    model: nn.Module,
    start: Sequence[Tensor],
    steps: Sequence[tuple[float, Sequence[Tensor]]],
    measure: Callable[[], EvalResult],
    tick: Tick,
) -> EvalResult:
    set_parameters(model, start, steps)
    measured = measure()
    tick()
    return measured
