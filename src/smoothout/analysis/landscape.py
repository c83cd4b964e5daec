"""The loss around a trained network, along random directions scaled to its filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts, linspace
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.mean_loss import Measurement
from smoothout.analysis.options import BiasDirection
from smoothout.common.enums import parse_enum
from smoothout.common.reals import finite_numbers
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches
from smoothout.nn.evaluation import EvalResult
from smoothout.nn.parameters import clear_weight_caches, concatenate, preserve_state, trainable_parameters, unflatten
from smoothout.nn.perturbation import filter_normalize_

Directions = Sequence[Sequence[Tensor]]  # each has a tensor per trainable parameter, in its shape

PUBLISHED_ALPHAS = tuple(linspace(-1.0, 1.0, 21))


class LandscapePoint(NamedTuple):
    """The network at ``alpha``: mean loss (nats, or the unit of ``loss=``) and accuracy (fraction) per direction."""

    alpha: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class LandscapePlane:
    """``losses[i][j]`` and ``accuracies[i][j]``, as in `LandscapePoint`, at w + alphas[i] d_0 + betas[j] d_1."""

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    accuracies: tuple[tuple[float, ...], ...]


def filter_direction(
    model: nn.Module, seed: int, index: int, *, one_dimensional: BiasDirection | str = BiasDirection.scaled
) -> list[Tensor]:
    """[Li 2018, directions] A Gaussian direction with the model's filter norms: d_i ||w_i|| / ||d_i||.

    It has a tensor per trainable parameter, in its shape, dtype and device and in the model's order. The draw depends
    only on ``seed`` and ``index``, and is done on the CPU in float32. SmoothOut's authors draw from U(-1, 1) instead.

    Raises ValueError for an unknown choice for one-dimensional tensors, or a model without trainable parameters.
    """
    one_dimensional = parse_enum(BiasDirection, "one_dimensional", one_dimensional)
    generator, weights = make_generator(seed, "direction", index), trainable_parameters(model)
    draws = [torch.randn(weight.shape, generator=generator, dtype=torch.float32, device="cpu") for weight in weights]
    direction = []
    for weight, drawn in zip(weights, unflatten(concatenate(draws), weights), strict=True):
        fixed = weight.dim() < 2 and one_dimensional is BiasDirection.zero
        direction.append(drawn.zero_() if fixed else filter_normalize_(drawn, weight.detach()))
    return direction


@torch.inference_mode(mode=False)
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
    """[SmoothOut v1 Fig. 6, later 5] Evaluate w + alpha d along each of ``directions`` filter-normalized directions d.

    Evaluation is in evaluation mode; BatchNorm's running statistics are kept. alpha = 0 gives the model's own numbers
    exactly. Parameters that require no gradient stay fixed.

    Args:
        directions: number of random directions (index 0, 1, ... of ``seed``; their spread shows how representative a
            single one is), or your own directions, each a list with a tensor per trainable parameter, in its shape.
        loss, weight: for networks that are not classifiers of single labels, as in `interpolate`.
        tick: called after each evaluation.

    Raises:
        ValueError: for no direction, or one of other shapes; for batches that are empty, allow only one pass or change
            from pass to pass; for a weight without a loss; and as `filter_direction`.
    """
    alphas = finite_numbers("alphas", alphas)
    with _evaluator(model, batches, loss, weight, tick) as evaluate_at:
        lines = _directions(model, directions, seed, one_dimensional)
        columns = [[evaluate_at((alpha, direction)) for alpha in alphas] for direction in lines]
    return [
        LandscapePoint(alpha, tuple(m.loss for m in row), tuple(m.accuracy for m in row))
        for alpha, *row in zip(alphas, *columns, strict=True)
    ]


@torch.inference_mode(mode=False)
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

    The two directions are not orthogonalized, because in high dimension they are nearly orthogonal. ``directions``
    replaces them with your own two. Otherwise this works like `landscape_line`; its first direction is the line
    beta = 0.

    Raises ValueError unless there are two directions, and as `landscape_line`.
    """
    if directions is not None and len(directions) != 2:
        raise ValueError(f"directions: a plane needs two, not {len(directions)}")
    alphas, betas = finite_numbers("alphas", alphas), finite_numbers("betas", betas)
    with _evaluator(model, batches, loss, weight, tick) as evaluate_at:
        first, second = _directions(model, directions or 2, seed, one_dimensional)
        grid = [[evaluate_at((alpha, first), (beta, second)) for beta in betas] for alpha in alphas]
    return LandscapePlane(
        alphas=tuple(alphas),
        betas=tuple(betas),
        losses=tuple(tuple(m.loss for m in row) for row in grid),
        accuracies=tuple(tuple(m.accuracy for m in row) for row in grid),
    )


def _directions(
    model: nn.Module, directions: int | Directions, seed: int, one_dimensional: BiasDirection | str
) -> Iterator[Sequence[Tensor]]:
    """Yield the first N directions of ``seed``, scaled to the current weights on demand, or the given directions."""
    if not isinstance(directions, Sequence):
        [count] = check_counts(directions=directions)
        yield from (filter_direction(model, seed, i, one_dimensional=one_dimensional) for i in range(count))
        return
    weights = trainable_parameters(model)
    shapes = [tuple(weight.shape) for weight in weights]
    if not directions or any([tuple(step.shape) for step in direction] != shapes for direction in directions):
        raise ValueError(f"directions: each must hold a tensor per trainable parameter, of the shapes {shapes}")
    yield from ([step.to(w) for step, w in zip(direction, weights, strict=True)] for direction in directions)


@contextmanager
def _evaluator(
    model: nn.Module, batches: Batches, loss: Loss | None, weight: Weight | None, tick: Tick
) -> Iterator[Callable[..., EvalResult]]:
    """Yield a function that evaluates the model at its weights plus steps (length, direction)."""
    parameters = trainable_parameters(model)
    measurement = Measurement(model, batches, loss, weight)
    center = [parameter.detach().clone() for parameter in parameters]

    def evaluate_at(*steps: tuple[float, Sequence[Tensor]]) -> EvalResult:
        set_parameters(parameters, center, *steps)
        result = measurement(model)
        set_parameters(parameters, center)  # the next direction is scaled to the current filters
        tick()
        return result

    with preserve_state(model):
        yield evaluate_at


@torch.no_grad()
def set_parameters(
    parameters: Sequence[Tensor], center: Sequence[Tensor], *steps: tuple[float, Sequence[Tensor]]
) -> None:
    """Set ``parameters`` to ``center`` plus each step (length, direction), in place."""
    for index, (parameter, start) in enumerate(zip(parameters, center, strict=True)):
        if not steps:
            parameter.copy_(start)
        for number, (length, direction) in enumerate(steps):
            torch.add(parameter if number else start, direction[index], alpha=length, out=parameter)
    clear_weight_caches()
