"""Adaptive sharpness: the largest rise of the loss if each weight may change in proportion to its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.box import Box, random_point
from smoothout.analysis.box_search import PINNED, BoxObjective, Point, projected_ascent, sign_step
from smoothout.analysis.device_memory import search_center
from smoothout.analysis.empirical_risk import Tick, check_width
from smoothout.analysis.options import Norm
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.integers import whole_number
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches, check_batches, logits_in
from smoothout.nn.parameters import preserve_state, set_evaluation_mode, trainable_parameters


@dataclass(frozen=True)
class AdaptiveSharpness:
    """A measurement of adaptive sharpness, with diagnostics of the search."""

    value: float  # max_loss - loss, in the units of the loss; a lower bound of the maximum
    loss: float  # f(w); with ``normalize_logits``, of normalized logits
    max_loss: float  # the highest f found; f(w) if failed
    status: str  # a description of the search
    failed: bool  # the search found no point clearly above f(w); the value 0.0 is not a measurement
    evaluations: int  # of f and its gradient together
    rise_left: float  # at the best point: see `projected_slope`
    dimension: int  # n

    def __str__(self) -> str:
        """The value, or that the search failed and why."""
        return f"failed ({self.status})" if self.failed else f"{self.value:.4g}"


def normalize_logits(logits: Tensor) -> Tensor:
    """[Andriushchenko 2023] Each example's logits, (examples, classes), minus their mean and divided by their L2 norm.

    As in the program of Andriushchenko et al., all models then have the same confidence for any scale of their logits.
    Raises ValueError for logits of another shape.
    """
    if logits.dim() != 2:
        raise ValueError(f"normalize_logits: needs logits (examples, classes), not {tuple(logits.shape)}")
    return F.normalize(logits - logits.mean(dim=1, keepdim=True), dim=1, eps=1e-10)


def loss_of_normalized(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """The loss of the logits in ``outputs``, after `normalize_logits`."""
    return loss(normalize_logits(logits_in(outputs)), targets)


@renamed_arguments(normalise_logits="normalize_logits")
@torch.inference_mode(mode=False)
def adaptive_sharpness(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None,
    rho: float,
    *,
    norm: Norm | str = Norm.linf,
    normalize_logits: bool = False,
    iterations: int = 20,
    random_starts: int = 2,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> AdaptiveSharpness:
    """[Kwon 2021] max f(w + delta) - f(w) over max |delta_i / w_i| <= rho (linf) or ||delta / w||_2 <= rho (l2).

    f is the mean of ``loss`` over all examples in evaluation mode, w the trainable parameters; a weight of 0 does not
    change. The search variable is z = delta / (rho |w|), so the search is invariant to rescaling too. It consists of
    projected ascents along the gradient's sign (linf) or direction (l2), from w and from random points. The first step
    crosses the box (linf) or is as long as the ball's radius (l2), and the step is halved when f does not rise. The
    result is the highest f found; points with non-finite f and rises within the rounding of f(w) are ignored.

    Andriushchenko et al. take the maximum for each batch of 128 and average; for that, pass one batch at a time.

    Args:
        model, batches, loss, weight, tick: As in `sharpness`.
        rho: Relative size of the region. A ball of n weights is about as large as a box at sqrt(n) times its rho.
        norm: Shape of the region: "linf" or "l2", as above.
        normalize_logits: Whether to apply `normalize_logits` to the outputs before ``loss``.
        iterations: Maximum number of steps of each ascent.
        random_starts: Number of ascents in addition to the one from w.
        seed: Seed of the random starts.

    Raises:
        ValueError: For an impossible argument, or a ``rho`` below the rounding of the model's dtype, before the model
            is touched; if f(w) is not finite; if two passes over the batches differ.

    Example:
        The loss is w^2 at w = 1, and the region reaches 1.1:

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
        >>> print(adaptive_sharpness(model, batches, F.mse_loss, rho=0.1))  # 1.21 - 1
        0.21
    """
    norm = parse_enum(Norm, "norm", norm)
    parameters = trainable_parameters(model)
    [rho] = check_width(parameters, rho=rho)
    if norm is Norm.l2:  # about the distance for each weight
        n = sum(p.numel() for p in parameters)
        check_width(parameters, **{"rho / sqrt(n)": rho / math.sqrt(n)})
    [iterations], [random_starts] = check_counts(iterations=iterations), check_counts(0, random_starts=random_starts)
    seed = whole_number("seed", seed)  # drawn from only after the first ascent
    check_batches("batches", batches)

    if normalize_logits and (isinstance(loss, type) or not callable(loss)):
        raise ValueError("normalize_logits: needs a loss(logits, targets), such as torch's cross_entropy")
    objective_loss = partial(loss_of_normalized, loss) if normalize_logits and loss else loss
    move = sign_step if norm is Norm.linf else gradient_step
    with preserve_state(model), torch.enable_grad():
        set_evaluation_mode(model)
        w = search_center(model)
        objective = BoxObjective(model, batches, objective_loss, Box(w, rho * w.abs()), tick, weight=weight)
        center = objective.evaluate_center(least=-math.inf)
        projected_ascent(objective, center, iterations, move)
        # At an exact minimum the gradient is 0, and only searches from other points find a rise.
        for index in range(random_starts):
            start = objective(random_start(len(w), norm, seed, index))
            if math.isfinite(start.loss):
                projected_ascent(objective, start, iterations, move)
    end = objective.if_improved(objective.highest, center)

    failed = end is center
    searched = f"{1 + random_starts} ascents of up to {iterations} steps"
    return AdaptiveSharpness(
        value=end.loss - center.loss,
        loss=center.loss,
        max_loss=end.loss,
        status=f"no point above the model's own loss in {searched}" if failed else searched,
        failed=failed,
        evaluations=objective.evaluations,
        rise_left=projected_slope(end, norm),
        dimension=len(w),
    )


def gradient_step(point: Point, step: float) -> Tensor:
    """A projected step along the gradient in the unit ball: P(z + step g / ||g||); z itself if the gradient is 0."""
    slope = torch.linalg.vector_norm(point.gradient)
    if slope == 0:
        return point.z
    z: Tensor = point.z + step * point.gradient / slope
    length: Tensor = torch.linalg.vector_norm(z)
    return z / length.clamp(min=1.0)


def random_start(n: int, norm: Norm, seed: int, index: int) -> Tensor:
    """A uniform random point of the box [-1, 1]^n, or of the unit sphere; float64."""
    generator = make_generator(seed, "adaptive", index)
    if norm is Norm.linf:
        return random_point(n, generator)
    z = torch.empty(n, dtype=torch.float64, device="cpu").normal_(generator=generator)
    return z.div_(z.norm())


def projected_slope(point: Point, norm: Norm) -> float:
    """A slope from ``point`` that stays in the region, in loss per rho: 0 at a maximum.

    In the ball it is the steepest one, in the box that of the steepest single coordinate.
    """
    if norm is Norm.linf:
        return point.projected_gradient().abs().max().item()
    on_sphere = torch.linalg.vector_norm(point.z) >= 1.0 - PINNED
    outward = (point.gradient @ point.z).item() if on_sphere else 0.0
    tangential = point.gradient - max(outward, 0.0) * point.z
    return float(torch.linalg.vector_norm(tangential))
