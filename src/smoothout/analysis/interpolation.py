"""Loss and accuracy on the way through two trained networks, straight or curved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import linspace
from smoothout.analysis.compatibility import (
    check_same_architecture,
    check_same_ties_and_buffers,
    deepcopy_model,
    equal_entries,
    refresh_spectral_norms,
    reject_hook_spectral_norm,
)
from smoothout.analysis.empirical_risk import Batches, Loss, Tick, Weight, check_batches
from smoothout.analysis.mean_loss import accumulator_for
from smoothout.analysis.options import InterpolationPath, RunningStats
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.evaluation import ClassificationMetrics, MetricAccumulator, evaluate
from smoothout.nn.parameters import BATCHNORM, clear_weight_caches, concatenate

PUBLISHED_ALPHAS = tuple(linspace(-1.0, 2.0, 31))


class LinePoint(NamedTuple):
    """The network at ``alpha``; loss and accuracy are nan where ``negative_variances`` channels have none."""

    alpha: float
    loss: float
    accuracy: float
    negative_variances: int


@dataclass(frozen=True)
class PathPoint:
    """The network at one ``alpha`` of a walk. The walk's next step changes it: look at each stop before the next."""

    alpha: float
    network: nn.Module
    negative_variances: int

    def measured(self, batches: Batches, tally: Callable[[], MetricAccumulator] = ClassificationMetrics) -> LinePoint:
        """Its loss and accuracy on ``batches``, in evaluation mode, or what else ``tally`` makes counts."""
        found = (math.nan, math.nan) if self.negative_variances else evaluate(self.network, batches, tally=tally)
        return LinePoint(self.alpha, *found, self.negative_variances)


def linear(alpha: float) -> tuple[float, float]:
    """How much of the first and of the second network: 1 - alpha and alpha."""
    return 1 - alpha, alpha


def curvilinear(alpha: float) -> tuple[float, float]:
    """[Keskar App. D] How much of the first and of the second network: cos(alpha pi / 2) and sin(alpha pi / 2).

    Exact where alpha is a whole number. (The "sin" mode of SmoothOut's authors' program is no such curve but a straight
    line, gone along at another pace.)
    """
    turns = float(alpha) % 4
    if turns.is_integer():
        return (1.0, 0.0, -1.0, 0.0)[int(turns)], (0.0, 1.0, 0.0, -1.0)[int(turns)]
    return math.cos(alpha * math.pi / 2), math.sin(alpha * math.pi / 2)


_AVERAGES = ("running_mean", "running_var")
_SHARES = {InterpolationPath.linear: linear, InterpolationPath.curvilinear: curvilinear}


@renamed_arguments(averages="running_stats", averages_from="running_stats_from")
def interpolate(
    first: nn.Module,
    second: nn.Module,
    batches: Batches,
    alphas: Iterable[float] = PUBLISHED_ALPHAS,
    *,
    path: InterpolationPath | str = InterpolationPath.linear,
    running_stats: RunningStats | str = RunningStats.interpolated,
    running_stats_from: Batches | None = None,
    loss: Loss | None = None,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> list[LinePoint]:
    """[SmoothOut Fig. 3a] Evaluate the networks on the way from ``first`` to ``second`` on ``batches``; see
    `iterate_path`.

    They are classifiers, unless there is a ``loss`` (with a ``weight``, as for `sharpness`): then its mean is measured,
    and accuracies are nan.

    Raises:
        ValueError: as `iterate_path`; when ``batches`` are empty or allow one pass only; for a weight without a loss.
    """
    check_batches("batches", batches)
    tally = accumulator_for(loss, weight)
    points = []
    for stop in iterate_path(
        first, second, alphas, path=path, running_stats=running_stats, running_stats_from=running_stats_from
    ):
        points.append(stop.measured(batches, tally))
        tick()
    return points


def iterate_path(
    first: nn.Module,
    second: nn.Module,
    alphas: Iterable[float] = PUBLISHED_ALPHAS,
    *,
    path: InterpolationPath | str = InterpolationPath.linear,
    running_stats: RunningStats | str = RunningStats.interpolated,
    running_stats_from: Batches | None = None,
) -> Iterator[PathPoint]:
    """The network at each alpha: the whole state dict mixed as ``path`` says, but for counters and constants.

    A constant is a buffer that is the same in both networks, such as a mask or what inputs are normalised by.

    BatchNorm's running averages are mixed too (``interpolated``), or ``kept`` as ``first`` has them, or
    ``recomputed`` at each point from ``running_stats_from`` (training batches; see `recalibrate_batchnorm`). Mixed, a
    running variance can fall below zero outside [0, 1]: such a point has no value and says how many channels it
    concerns.

    alpha = 0 gives the first network's own numbers exactly, and alpha = 1 the second's unless averages are kept. Where
    they are recomputed, the two ends are the two networks with averages recomputed in the same way: not those that they
    gathered in training, under weights that moved (and under noise). Both networks stay as they are.

    The singular vectors of spectral normalisation are found anew at every point but the two networks themselves: mixed,
    they would belong to no weights.

    Raises:
        ValueError: when the networks' state dicts do not match, nor their tied weights and the buffers that it leaves
            out; for spectral normalisation by a hook, for an unknown path or choice of averages, and when there is
            nothing to recompute them from, or for one pass only.
    """
    shares = _SHARES[parse_enum(InterpolationPath, "path", path)]
    running_stats = parse_enum(RunningStats, "running_stats", running_stats)
    reject_hook_spectral_norm(first)
    if running_stats is RunningStats.recomputed:
        if running_stats_from is None:
            raise ValueError("running_stats_from: recomputed averages need batches")
        check_batches("running_stats_from", running_stats_from)
    starts, ends = first.state_dict(), second.state_dict()
    check_same_architecture(starts, ends)
    check_same_ties_and_buffers(first, second)
    gathered = [name for name in starts if name.endswith(_AVERAGES)]
    if running_stats is RunningStats.recomputed:  # those of other layers than BatchNorm's are not
        layers = {name for name, module in first.named_modules() if isinstance(module, BATCHNORM)}
        gathered = [name for name in gathered if name.rpartition(".")[0] in layers]
    left = [] if running_stats is RunningStats.interpolated else gathered
    buffers = [name for name, _ in first.named_buffers() if name in starts and not name.endswith(_AVERAGES)]
    left += equal_entries(starts, ends, buffers)
    between = deepcopy_model(first)
    for alpha in alphas:
        weights = {name: _mixed(start, ends[name], shares(alpha)) for name, start in starts.items()}
        weights |= {name: starts[name] for name in left}
        between.load_state_dict(weights)
        clear_weight_caches()
        if all(shares(alpha)):
            refresh_spectral_norms(between)
        if running_stats is RunningStats.recomputed and running_stats_from is not None:
            recalibrate_batchnorm(between, running_stats_from)
        yield PathPoint(
            float(alpha), between, _negative(w for name, w in weights.items() if name.endswith("running_var"))
        )


def _negative(variances: Iterable[Tensor]) -> int:
    """How many of the ``variances`` are below 0: one number read from the device, not one a layer."""
    counts = [(variance < 0).sum() for variance in variances]
    return int(concatenate(counts).sum()) if counts else 0


def _mixed(start: Any, end: Any, shares: tuple[float, float]) -> Any:
    """The first network's where there is nothing to mix: a counter, a module's extra state."""
    if not isinstance(start, Tensor) or not (start.is_floating_point() or start.is_complex()):
        return start
    if not all(shares):  # 0 times what is not finite is nan
        return shares[0] * start if shares[0] else shares[1] * end
    return torch.add(shares[0] * start, end, alpha=shares[1])
