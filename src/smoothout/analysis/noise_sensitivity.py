"""Loss and accuracy of a trained network under noise in its weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.empirical_risk import Tick, check_width
from smoothout.analysis.landscape import set_parameters
from smoothout.analysis.mean_loss import Measurement
from smoothout.analysis.models import keeping_weights
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.estimates import standard_error
from smoothout.common.pass_cache import cached_pass
from smoothout.common.reals import finite_numbers
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches
from smoothout.nn.forward import forward
from smoothout.nn.options import NoiseDistribution, NoiseScaling, check_strength
from smoothout.nn.parameters import parameters_to_vector, preserve_state, set_evaluation_mode, trainable_parameters
from smoothout.nn.perturbation import SmoothOut


class NoisePoint(NamedTuple):
    """Mean loss and accuracy (a fraction) at strength ``a``; standard errors over the draws, None for a single draw.

    The loss is the cross entropy in nats, or in the unit of ``loss=`` or of the loss that the model's outputs carry.
    """

    a: float
    loss: float
    accuracy: float
    loss_error: float | None = None
    accuracy_error: float | None = None


@renamed_arguments(law="distribution")
@torch.inference_mode(mode=False)
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
    """[SmoothOut v1 Fig. 3b, later 2b] C(w; a) = E C(w + theta) at every strength, with a new theta for each batch.

    It perturbs all parameters that require a gradient, including BatchNorm's; running statistics are kept, and the
    model is in evaluation mode. The papers use batches of 100 and one draw. Noise is proportional to its strength, so
    one draw per batch serves all strengths. The curve is as smooth as its mean, and costs little more than its forward
    passes.

    Args:
        model: restored bit for bit (weights, buffers, modes), also after an exception.
        batches: pairs (inputs, targets), or mappings of keyword arguments; the same examples at every pass.
        strengths: the values of a.
        distribution: "uniform" (U(-a, a)) or "gaussian" (N(0, a^2)).
        scaling: "none", "weight" or "filter" (a is relative to each weight, or to each filter's norm).
        draws: number of measurements of each batch; the standard errors are over these.
        seed: seed of the noise, which also depends on the indices of the batch and of the draw.
        loss, weight: for networks that are not classifiers of single labels, as in `interpolate`.
        tick: called after each batch of each draw, at all strengths.

    Raises:
        ValueError: for a strength that is negative, not finite or below the rounding of the weights; an unknown
            distribution or scaling; no draws; batches that `check_batches` refuses, or that change from pass to pass;
            a weight without a loss.

    Example:
        The loss is w^2 at w = 1, and its mean under U(-a, a) is 1 + a^2 / 3:

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> batches = 1000 * [(torch.ones(1, 1), torch.zeros(1, 1))]
        >>> points = noise_curve(model, batches, [0.0, 0.5], loss=torch.nn.functional.mse_loss)
        >>> [round(point.loss, 1) for point in points]
        [1.0, 1.1]
    """
    strengths, scaling = finite_numbers("strengths", strengths), parse_enum(NoiseScaling, "scaling", scaling)
    parameters = trainable_parameters(model)
    check_strengths(parameters, strengths, scaling)
    [draws] = check_counts(draws=draws)
    measurement = Measurement(model, batches, loss, weight)
    with preserve_state(model), torch.no_grad():
        set_evaluation_mode(model)
        measurement.check(model)
        context = SmoothOut(model, 1.0, distribution, scaling=scaling, batchnorm=True)
        clean = [parameter.clone() for parameter in parameters]

        def measure(draw: int) -> Tensor:
            """A row (loss, accuracy) for each strength."""
            accumulators = [measurement.metrics() for _ in strengths]
            for index, (inputs, targets) in enumerate(measurement.examples):
                set_parameters(parameters, clean)  # relative noise is scaled to the current weights
                context.generator = make_generator(seed, "sensitivity", index, draw, device=context.device)
                directions = context.draw()  # at strength 1: one draw serves all strengths
                for number, (a, accumulator) in enumerate(zip(strengths, accumulators, strict=True), 1):
                    set_parameters(parameters, clean, (a, directions))
                    is_checked = index == 0 and number == len(strengths)
                    with keeping_weights(model) if is_checked else nullcontext():
                        outputs = forward(model, inputs)
                    accumulator.update(outputs, targets, inputs)
                tick()
            return torch.tensor(
                [accumulator.compute() for accumulator in accumulators], dtype=torch.float64, device="cpu"
            )

        # One pass per draw, not per strength. Each is cached, and an interrupted analysis resumes after it.
        curves = [cached_pass(partial(measure, draw)).tolist() for draw in range(draws)]
    return [_point(a, results) for a, results in zip(strengths, zip(*curves, strict=True), strict=True)]


def check_strengths(parameters: Sequence[Tensor], strengths: Sequence[float], scaling: NoiseScaling) -> None:
    """Raise ValueError for strengths that are impossible, or too small for the dtype of ``parameters``.

    Absolute noise is compared with the median absolute value of the weights.
    """
    size = parameters_to_vector(parameters).abs().median().item() if scaling is NoiseScaling.none else 1.0
    for a in filter(None, strengths):
        check_strength(a)
        check_width(parameters, **{"strengths / size of the weights": a / max(a, size)})


def _point(a: float, results: Sequence[Sequence[float]]) -> NoisePoint:
    losses, accuracies = zip(*results, strict=True)
    errors = (standard_error(values) if len(values) > 1 else None for values in (losses, accuracies))
    return NoisePoint(a, statistics.fmean(losses), statistics.fmean(accuracies), *errors)


def noise_slopes(points: Sequence[NoisePoint]) -> list[float]:
    """[SmoothOut Eq. 9] s: the change of C(w; a) divided by the change of a, from each strength to the next.

    Raises ValueError for two equal strengths in a row.
    """
    if any(left.a == right.a for left, right in pairwise(points)):
        raise ValueError(f"points: consecutive strengths must differ, not {[point.a for point in points]}")
    return [(right.loss - left.loss) / (right.a - left.a) for left, right in pairwise(points)]
