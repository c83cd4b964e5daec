"""Loss and accuracy on the straight line through two trained networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.evaluation import evaluate

PUBLISHED_ALPHAS = tuple(round(-1 + 0.1 * i, 10) for i in range(31))


class LinePoint(NamedTuple):
    """The network at ``alpha``; loss and accuracy are nan where ``negative_variances`` channels have none."""

    alpha: float
    loss: float
    accuracy: float
    negative_variances: int


def interpolate(
    first: nn.Module,
    second: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    alphas: Sequence[float] = PUBLISHED_ALPHAS,
    *,
    tick: Callable[[], None] = lambda: None,
) -> list[LinePoint]:
    """[SmoothOut Fig. 3a] Evaluate (1 - alpha) ``first`` + alpha ``second`` on ``batches``, in evaluation mode.

    Everything in the state dict is interpolated, BatchNorm's running averages included, as in the released program;
    counters are not. Beyond [0, 1] a running variance can fall below zero: such a point is nan and says how many
    channels it concerns. alpha = 0 and 1 give the two networks' own numbers exactly. Both networks stay as they are.

    Raises:
        ValueError: when the networks' state dicts do not match.
    """
    starts, ends = first.state_dict(), second.state_dict()
    shapes = [{name: tensor.shape for name, tensor in weights.items()} for weights in (starts, ends)]
    if shapes[0] != shapes[1]:
        raise ValueError("first, second: the two networks must have the same architecture")
    between = copy.deepcopy(first)
    points = []
    for alpha in alphas:
        weights = {name: _between(starts[name], ends[name], alpha) for name in starts}
        negative = sum(int((w < 0).sum()) for name, w in weights.items() if name.endswith("running_var"))
        between.load_state_dict(weights)
        measured = (math.nan, math.nan) if negative else evaluate(between, batches)
        points.append(LinePoint(float(alpha), *measured, negative))
        tick()
    return points


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    return torch.add((1 - alpha) * start, end, alpha=alpha) if start.is_floating_point() else start
