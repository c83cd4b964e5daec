"""Adaptive sharpness: how far the loss can rise when each weight may change in proportion to its own size.

Unlike a box of fixed width, its region shrinks and grows with the weights: scaling one layer up and the next down,
which leaves a ReLU network's function as it is, leaves this sharpness as it is too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.box import Box, random_point
from smoothout.analysis.device_memory import SEARCH_VECTORS, vectors_device
from smoothout.analysis.empirical_risk import Batches, Loss, Tick, Weight, check_batches, check_width
from smoothout.analysis.options import Norm
from smoothout.analysis.sharpness import PINNED, BoxObjective, Point, projected_ascent, sign_step
from smoothout.common.enums import parse_enum
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters


@dataclass(frozen=True)
class AdaptiveSharpness:
    """One measurement of adaptive sharpness, and how far to trust it."""

    value: float  # max_loss - loss, in the loss's own units; a lower bound of the maximum
    loss: float  # f(w), of normalised logits where they were asked for
    max_loss: float  # the highest f met; f(w) if failed
    status: str  # what the search did, in words
    failed: bool  # no point that is surely above f(w) was met; the value 0.0 measures nothing
    evaluations: int  # of f and its gradient together
    rise_left: float  # at the point found: the steepest rise that stays in the region, per rho
    dimension: int  # n

    def __str__(self) -> str:
        """The value, or that the search failed and why."""
        return f"failed ({self.status})" if self.failed else f"{self.value:.4g}"


def normalize_logits(logits: Tensor) -> Tensor:
    """[Andriushchenko 2023] Each example's logits, (examples, classes), less their mean and over their L2 norm.

    As in the program of Andriushchenko et al.: all models speak with the same confidence, whatever their scale. Raises
    ValueError for logits of another form.
    """
    if logits.dim() != 2:
        raise ValueError(f"normalise_logits: needs logits (examples, classes), not {tuple(logits.shape)}")
    return F.normalize(logits - logits.mean(dim=1, keepdim=True), dim=1, eps=1e-10)


def adaptive_sharpness(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    rho: float,
    *,
    norm: Norm | str = Norm.linf,
    normalise_logits: bool = False,
    iterations: int = 20,
    random_starts: int = 2,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> AdaptiveSharpness:
    """[Kwon 2021] max f(w + delta) - f(w) over max |delta_i / w_i| <= rho (linf) or ||delta / w||_2 <= rho (l2).

    f is the mean of ``loss`` over all examples in evaluation mode, w the trainable parameters; a weight of 0 stays.
    The search walks in z = delta / (rho |w|), so that it is unchanged by rescalings too: ascents by the gradient's sign
    (linf) or direction (l2), projected, with a first step as long as the region and halved where f does not rise, from
    w and from random points. The highest f met counts; points where f is not finite do not, nor does a rise within the
    rounding of one number of f's size.

    Andriushchenko et al. take the maximum for each batch of 128 by itself and average: give one batch at a time.

    Args:
        model: Left as it was to the last bit (weights, buffers, modes, ``.grad``), also after an exception.
        batches: Pairs (inputs, targets), the same examples at every pass.
        loss: ``loss(outputs, targets)``, the mean over the examples of a batch.
        weight: How many examples a batch counts as, from (inputs, targets); None is ``len(targets)``. For a language
            model the tokens that count: ``lambda inputs, targets: (targets != -100).sum()``.
        rho: Relative size of the region.
        norm: A `Norm` or its name.
        normalise_logits: Whether outputs are `normalize_logits` before ``loss`` sees them.
        iterations: Steps of each ascent at most.
        random_starts: Ascents beside the one from w.
        seed: Of the random points.
        tick: Called after each evaluation of f and its gradient.

    Raises:
        ValueError: For an impossible argument, or a ``rho`` below the rounding of the model's dtype, before the model
            is touched; if f(w) is not finite; if model and batches do not answer twice the same.
    """
    norm = parse_enum(Norm, "norm", norm)
    check_width(trainable_parameters(model), rho=rho)
    if norm is Norm.l2:  # about as far as each weight moves
        n = sum(p.numel() for p in trainable_parameters(model))
        check_width(trainable_parameters(model), **{"rho / sqrt(n)": rho / math.sqrt(n)})
    check_counts(iterations=iterations)
    check_counts(random_starts=random_starts, least=0)
    check_batches("batches", batches)
    measured = (lambda outputs, targets: loss(normalize_logits(outputs), targets)) if normalise_logits else loss
    move = sign_step if norm is Norm.linf else gradient_step
    with preserve_state(model), torch.enable_grad():
        model.eval()
        w = parameters_to_vector(
            trainable_parameters(model), vectors_device(trainable_parameters(model), SEARCH_VECTORS)
        )
        objective = BoxObjective(model, batches, measured, Box(w, rho * w.abs()), tick, weight=weight)
        x = objective.evaluate_center(least=-math.inf)
        projected_ascent(objective, x, iterations, move)
        for index in range(random_starts):
            start = objective(random_start(len(w), norm, seed, index))
            if math.isfinite(start.loss):
                projected_ascent(objective, start, iterations, move)
    end = objective.if_improved(objective.highest, x)
    failed = end is x
    searched = f"{1 + random_starts} ascents of up to {iterations} steps"
    return AdaptiveSharpness(
        value=end.loss - x.loss,
        loss=x.loss,
        max_loss=end.loss,
        status=f"no point above the model's own loss in {searched}" if failed else searched,
        failed=failed,
        evaluations=objective.evaluations,
        rise_left=projected_slope(end, norm),
        dimension=len(w),
    )


def gradient_step(here: Point, step: float) -> Tensor:
    """A projected step along the gradient in the unit ball: P(z + step g / ||g||); none where the gradient is 0."""
    slope = torch.linalg.vector_norm(here.gradient)
    return project_to_ball(here.z + step * here.gradient / slope) if slope > 0 else here.z


def project_to_ball(z: Tensor) -> Tensor:
    """The point of the unit ball that is nearest to ``z``."""
    length: Tensor = torch.linalg.vector_norm(z)
    return z / length.clamp(min=1.0)


def random_start(n: int, norm: Norm, seed: int, index: int) -> Tensor:
    """A uniform random point of the box [-1, 1]^n, or of the unit sphere; float64."""
    generator = make_generator(seed, "adaptive", index)
    if norm is Norm.linf:
        return random_point(n, generator)
    z = torch.empty(n, dtype=torch.float64).normal_(generator=generator)
    return z.div_(z.norm())


def projected_slope(point: Point, norm: Norm) -> float:
    """The steepest rise from ``point`` that the region allows, in loss per rho: 0 at a maximum."""
    if norm is Norm.linf:
        return point.projected_gradient().abs().max().item()
    outward = (point.gradient @ point.z).item() if torch.linalg.vector_norm(point.z) >= 1.0 - PINNED else 0.0
    along = point.gradient - max(outward, 0.0) * point.z
    return float(torch.linalg.vector_norm(along))
