"""How loss and accuracy of a trained network bear noise in its weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.empirical_risk import (
    Batches,
    Loss,
    Tick,
    Weight,
    check_batches,
    check_width,
    iter_pairs,
)
from smoothout.analysis.mean_loss import accumulator_for
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.estimates import standard_error
from smoothout.common.pass_cache import cached_pass
from smoothout.common.rng import make_generator
from smoothout.nn.evaluation import EvalResult
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.nn.parameters import clear_weight_caches, parameters_to_vector, preserve_state, trainable_parameters
from smoothout.nn.perturbation import SmoothOut, check_strength


class NoisePoint(NamedTuple):
    """Mean loss and accuracy at strength ``a``, and their standard errors over the draws (None for a single one)."""

    a: float
    loss: float
    accuracy: float
    loss_error: float | None = None
    accuracy_error: float | None = None


@renamed_arguments(law="distribution")
def noise_curve(
    model: nn.Module,
    batches: Batches,
    strengths: Iterable[float],
    *,
    distribution: NoiseDistribution | str = NoiseDistribution.uniform,
    scaling: NoiseScaling | str = NoiseScaling.none,
    draws: int = 1,
    seed: int = 0,
    loss: Loss | None = None,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> list[NoisePoint]:
    """[SmoothOut Fig. 3b] C(w; a) = E C(w + theta) at every strength, theta drawn anew for each batch.

    All parameters that require a gradient are perturbed, BatchNorm's too, and frozen ones are not; running averages are
    kept; evaluation mode. The papers use batches of 100 and one draw. Noise is proportional to its strength, so a
    batch's draw serves all strengths: a curve is as smooth as its mean, and costs little more than its forward passes.
    The model is given back to the last bit.

    Args:
        model: the trained network.
        batches: pairs (inputs, targets); gone through once a draw.
        strengths: the values of a.
        distribution: "uniform" (U(-a, a)) or "gaussian" (N(0, a^2)).
        scaling: "none", "weight" or "filter" (a is then a share of each weight, or of each filter's norm).
        draws: how many times each batch is measured; the standard errors are over these.
        seed: of the noise.
        loss: of a network that is no classifier of single labels, ``loss(outputs, targets)``; accuracies are then nan.
        weight: how many examples a batch counts as, as for `sharpness`.
        tick: called after each batch of each draw, at all strengths.

    Raises:
        ValueError: on a strength that is negative, not finite or lost in the rounding of the weights, an unknown law or
            scaling, no draws, no batches, one that is no pair, several draws of batches that allow one pass only, and
            a weight without a loss.
    """
    strengths, scaling = [float(a) for a in strengths], parse_enum(NoiseScaling, "scaling", scaling)
    check_strengths(trainable_parameters(model), strengths, scaling)
    check_counts(draws=draws)
    tally_at = accumulator_for(loss, weight)
    if draws > 1:
        check_batches("batches", batches)
    curves = []
    with preserve_state(model), torch.no_grad():
        model.eval()
        context, parameters = (
            SmoothOut(model, 1.0, distribution, scaling=scaling, batchnorm=True),
            trainable_parameters(model),
        )
        clean = [parameter.clone() for parameter in parameters]

        def measured(draw: int) -> Tensor:
            tallies = [tally_at() for _ in strengths]
            for index, (inputs, targets) in enumerate(iter_pairs("batches", batches)):
                _assign(parameters, clean)  # the scale of the noise is that of the clean weights
                context.generator = make_generator(seed, "sensitivity", index, draw, device=context.device)
                directions = context.draw()
                for a, tally in zip(strengths, tallies, strict=True):
                    _assign(parameters, clean, directions, a)
                    tally.update(model(inputs), targets, inputs)
                tick()
            return torch.tensor([tally.compute() for tally in tallies], dtype=torch.float64)

        for draw in range(draws):
            found = cached_pass(partial(measured, draw))
            curves.append([EvalResult(*row) for row in found.tolist()])
    return [_point(a, measured) for a, measured in zip(strengths, zip(*curves, strict=True), strict=True)]


def check_strengths(parameters: Sequence[Tensor], strengths: Sequence[float], scaling: NoiseScaling) -> None:
    """Raise ValueError for strengths that are impossible, or too small for the dtype of ``parameters`` to show.

    Noise that is not relative to the weights is held against their median size.
    """
    size = parameters_to_vector(parameters).abs().median().item() if scaling is NoiseScaling.none else 1.0
    for a in filter(None, strengths):
        check_strength(a)
        check_width(parameters, **{"strengths / size of the weights": a / max(a, size)})


def _assign(
    parameters: Sequence[Tensor], clean: Sequence[Tensor], directions: Sequence[Tensor] = (), a: float = 0.0
) -> None:
    """Let the parameters be ``clean_weights``, or ``clean_weights`` + ``a`` times ``directions``."""
    for parameter, w, direction in zip_longest(parameters, clean, directions):
        if direction is None:
            parameter.copy_(w)
        else:
            torch.add(w, direction, alpha=a, out=parameter)
    clear_weight_caches()


def _point(a: float, measured: Sequence[EvalResult]) -> NoisePoint:
    losses, accuracies = zip(*measured, strict=True)
    errors = (standard_error(values) if len(values) > 1 else None for values in (losses, accuracies))
    return NoisePoint(float(a), statistics.fmean(losses), statistics.fmean(accuracies), *errors)


def noise_slopes(points: Sequence[NoisePoint]) -> list[float]:
    """[SmoothOut Eq. 9] s = change of C(w; a) over change of a, from each strength to the next.

    Raises:
        ValueError: where two strengths that follow each other are the same.
    """
    if any(left.a == right.a for left, right in pairwise(points)):
        raise ValueError(f"points: a strength must differ from the one before, not {[point.a for point in points]}")
    return [(right.loss - left.loss) / (right.a - left.a) for left, right in pairwise(points)]
