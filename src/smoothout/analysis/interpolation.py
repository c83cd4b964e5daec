"""Loss and accuracy on a path through two trained networks, straight or curved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import linspace
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.compatibility import (
    check_same_architecture,
    check_same_ties_and_buffers,
    deepcopy_model,
    equal_entries,
    refresh_spectral_norms,
    reject_hook_spectral_norm,
)
from smoothout.analysis.empirical_risk import Tick, loss_tolerance, machine_epsilon
from smoothout.analysis.mean_loss import Measurement
from smoothout.analysis.options import InterpolationPath, RunningStats
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.reals import finite_numbers
from smoothout.nn.batches import Batches, Examples, check_batches
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.guards import check_all
from smoothout.nn.parameters import BATCHNORM, clear_weight_caches, concatenate, is_expanded

PUBLISHED_ALPHAS = tuple(linspace(-1.0, 2.0, 31))


class LinePoint(NamedTuple):
    """Mean loss and accuracy (a fraction) at ``alpha``; both nan if ``negative_variances``, a number of channels, > 0.

    The loss is the cross entropy in nats, or in the unit of ``loss=`` or of the loss that the model's outputs carry.
    """

    alpha: float
    loss: float
    accuracy: float
    negative_variances: int


@dataclass(frozen=True)
class PathPoint:
    """The network at one ``alpha``. Measure it before the next iteration, which overwrites it."""

    alpha: float
    network: nn.Module
    negative_variances: int

    def measured(self, measurement: Measurement) -> LinePoint:
        """Measure loss and accuracy with ``measurement``."""
        if self.negative_variances:
            return LinePoint(self.alpha, math.nan, math.nan, self.negative_variances)
        return LinePoint(self.alpha, *measurement(self.network), 0)


def linear(alpha: float) -> tuple[float, float]:
    """The coefficients of the first and the second network: 1 - alpha and alpha."""
    return 1 - alpha, alpha


def curvilinear(alpha: float) -> tuple[float, float]:
    """[Keskar App. D] The coefficients of the two networks: cos(alpha pi / 2) and sin(alpha pi / 2).

    They are exact if alpha is a whole number. (The "sin" mode of the SmoothOut authors' program is not this curve, but
    the straight line with a different spacing of points.)
    """
    quarters = float(alpha) % 4
    if quarters.is_integer():
        return (1.0, 0.0, -1.0, 0.0)[int(quarters)], (0.0, 1.0, 0.0, -1.0)[int(quarters)]
    return math.cos(alpha * math.pi / 2), math.sin(alpha * math.pi / 2)


_STATISTICS = ("running_mean", "running_var")
_COEFFICIENTS = {InterpolationPath.linear: linear, InterpolationPath.curvilinear: curvilinear}


@renamed_arguments(averages="running_stats", averages_from="running_stats_from")
@torch.inference_mode(mode=False)
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
    """[SmoothOut v1 Fig. 3a, later 2a] Evaluate the networks on the path from ``first`` to ``second`` on ``batches``.

    Args:
        first, second: networks of the same architecture; both stay unchanged.
        batches: pairs (inputs, targets); one pass per point.
        alphas: positions on the path; 0 is ``first`` and 1 is ``second``.
        path, running_stats, running_stats_from: as in `iterate_path`.
        loss: ``loss(outputs, targets)`` for networks that are not classifiers of single labels; its mean is measured,
            and accuracies are nan.
        weight: how many examples a batch counts as, as in `sharpness`.
        tick: called after each point.

    Raises:
        ValueError: as `iterate_path`; if ``batches`` are empty, allow only one pass or change from pass to pass; for a
            weight without a loss.

    Example:
        >>> first, second = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
        >>> _ = torch.nn.init.zeros_(first.weight), torch.nn.init.ones_(second.weight)
        >>> batches = [(torch.ones(4, 1), torch.ones(4, 1))]  # the loss is (w - 1)^2
        >>> [p.loss for p in interpolate(first, second, batches, [0, 0.5, 1], loss=torch.nn.functional.mse_loss)]
        [1.0, 0.25, 0.0]
    """
    check_all(first=first, second=second)
    # Shared by all points: it checks the batches now, and at the first finite loss that two passes agree.
    measurement = Measurement(first, batches, loss, weight)
    points = []
    # Measured one by one, because all points share one network.
    for point in iterate_path(
        first, second, alphas, path=path, running_stats=running_stats, running_stats_from=running_stats_from
    ):
        points.append(point.measured(measurement))
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
    """Yield the network at each alpha: the whole state dict mixed along ``path``, except counters and constants.

    A constant is a buffer or a frozen parameter that is equal in both networks, such as a mask or the inputs'
    normalization. alpha = 0 gives the first network exactly, and alpha = 1 the second unless running statistics are
    kept. Recomputed statistics at both ends differ from those of training, which were estimated while the weights moved
    (and under noise). Both networks are left unchanged.

    The singular vectors of spectral normalization are recomputed at every point between the networks, because mixtures
    of singular vectors do not match the weights.

    Args:
        first, second: networks of the same architecture, with the same ties and non-persistent buffers.
        path: see `linear` and `curvilinear`.
        running_stats: BatchNorm's running statistics: ``interpolated``, ``kept`` from ``first``, or ``recomputed`` at
            each point. Outside [0, 1] an interpolated running variance can be negative. Such a point has no loss, only
            the number of these channels.
        running_stats_from: training batches to recompute the statistics from, see `recalibrate_batchnorm`.

    Raises:
        ValueError: if the networks do not match, or are of a kind that cannot be mixed (`check_all`); for spectral
            normalization by a hook; for an unknown path or choice of running statistics; if statistics are to be
            recomputed without batches, or from batches that allow only one pass or change from pass to pass.
    """
    coefficients = _COEFFICIENTS[parse_enum(InterpolationPath, "path", path)]
    running_stats = parse_enum(RunningStats, "running_stats", running_stats)
    alphas = finite_numbers("alphas", alphas)
    check_all(first=first, second=second)
    reject_hook_spectral_norm(first)
    if running_stats is RunningStats.recomputed:
        if running_stats_from is None:
            raise ValueError("running_stats_from: running_stats=recomputed needs training batches")
        check_batches("running_stats_from", running_stats_from)
        training = Examples("running_stats_from", running_stats_from, first)
    start, end = first.state_dict(), second.state_dict()
    check_same_architecture(start, end)
    check_same_ties_and_buffers(first, second)

    # Entries that are not mixed: running statistics, unless interpolated, and constants.
    statistics = [name for name in start if name.endswith(_STATISTICS)]
    if running_stats is RunningStats.recomputed:  # only BatchNorm's are recomputed; others are mixed
        layers = {name for name, module in first.named_modules() if isinstance(module, BATCHNORM)}
        statistics = [name for name in statistics if name.rpartition(".")[0] in layers]
    unmixed = set() if running_stats is RunningStats.interpolated else {*statistics}
    fixed = (*first.named_buffers(), *((name, p) for name, p in first.named_parameters() if not p.requires_grad))
    constants = [name for name, _ in fixed if name in start and not name.endswith(_STATISTICS)]
    unmixed |= {*equal_entries(start, end, constants)}

    network = deepcopy_model(first)
    for index, alpha in enumerate(alphas):
        # From the original tensors at each point, so that rounding does not accumulate along the path.
        weights = {
            name: entry if name in unmixed else _mix(entry, end[name], coefficients(alpha))
            for name, entry in start.items()
        }
        # Torch cannot write to an expanded tensor; such constants are those of `first` already.
        writable = {name: entry for name, entry in weights.items() if not (name in unmixed and is_expanded(entry))}
        network.load_state_dict(writable, strict=False)
        clear_weight_caches()
        if coefficients(alpha) not in ((1.0, 0.0), (0.0, 1.0)):  # at an end, that network's vectors are correct
            refresh_spectral_norms(network)
        if running_stats is RunningStats.recomputed:
            recalibrate_batchnorm(network, training)
            if index == 0:
                check_statistics(network, training)
        # Counted in the mixed statistics; recomputed ones are never negative.
        negative = [(entry < 0).sum() for name, entry in weights.items() if name.endswith("running_var")]
        yield PathPoint(alpha, network, int(concatenate(negative).sum()) if negative else 0)


def check_statistics(network: nn.Module, training: Examples) -> None:
    """Raise ValueError if another pass over ``training`` gives different running statistics than ``network`` has."""
    layers = [module for module in network.modules() if isinstance(module, BATCHNORM)]
    buffers = [t for layer in layers for t in (layer.running_mean, layer.running_var) if t is not None]
    before = [buffer.clone() for buffer in buffers]
    recalibrate_batchnorm(network, training)
    for first, again in zip(before, buffers, strict=True):
        if (again - first).norm() > loss_tolerance(machine_epsilon([first])) * first.norm():
            raise ValueError(
                "running_stats_from: two passes give other running statistics; must be the same examples in the same"
                " order, so turn off shuffling and augmentation"
            )


def _mix(start: Any, end: Any, coefficients: tuple[float, float]) -> Any:
    """The linear combination; entries that cannot be mixed (counters, extra state) are taken from one network."""
    mixable = isinstance(start, Tensor) and (start.is_floating_point() or start.is_complex())
    if not mixable or not all(coefficients):  # 0 times a non-finite number would be nan
        entry, coefficient = (start, coefficients[0]) if coefficients[0] else (end, coefficients[1])
        return coefficient * entry if mixable else entry
    return torch.add(coefficients[0] * start, end, alpha=coefficients[1])
