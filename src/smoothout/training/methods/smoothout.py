"""The settings of SmoothOut and AdaSmoothOut as training methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from smoothout.common.enums import coerce_enum_fields, parse_enum
from smoothout.nn.options import NoiseDistribution, NoiseScaling, StatisticsFrom, check_strength
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smoothout.nn.perturbation import SmoothOut


class NoisePer(StrEnum):
    """How often noise is drawn: for every ghost batch (the released program), or once per batch (Algorithm 1)."""

    ghost = "ghost"
    batch = "batch"


class StrengthSchedule(StrEnum):
    """How the strength changes over a training."""

    constant = "constant"
    anneal = "anneal"
    tanh_rising = "tanh_rising"
    tanh_falling = "tanh_falling"


@dataclass(frozen=True)
class NoiseConfig(Method):
    """Settings of SmoothOut's noise; ``a = 0`` is training without noise.

    Args:
        a: strength: half-width of the uniform distribution, or standard deviation of the Gaussian; relative if scaled.
        distribution: uniform (as published) or gaussian (later version, Table V).
        scaling: none (SmoothOut), filter (AdaSmoothOut) or weight.
        batchnorm: perturb weight and bias of BatchNorm layers too.
        denoise: remove the noise before the update (Algorithm 1, line 5).
        noise_per: draw noise for every ghost batch, or once per batch.
        strength_schedule: how the strength changes over the training.
        copies: 0 is Stochastic SmoothOut; N > 0 averages N models with noise drawn once before training (Eq. 1).
    """

    recorded_as: ClassVar[str] = "Noise"
    statistics_from: ClassVar[StatisticsFrom] = StatisticsFrom.perturbed  # SmoothOut has no pass at w

    a: float = 0.0
    distribution: NoiseDistribution = field(default=NoiseDistribution.uniform, metadata={"recorded_as": "law"})
    scaling: NoiseScaling = NoiseScaling.none
    batchnorm: bool = False
    denoise: bool = True
    noise_per: NoisePer = field(default=NoisePer.ghost, metadata={"recorded_as": "draw"})
    strength_schedule: StrengthSchedule = field(default=StrengthSchedule.constant, metadata={"recorded_as": "course"})
    copies: int = 0

    def __post_init__(self) -> None:
        check_strength(self.a)
        coerce_enum_fields(self)
        if self.copies < 0:
            raise ValueError(
                f"copies: must be 0 (noise drawn at every update) or a number of copies, not {self.copies}"
            )
        if self.copies and not (self.denoise and self.strength_schedule is StrengthSchedule.constant):
            raise ValueError(
                "copies: the N copies of Eq. 1 need denoise=true and strength_schedule=constant, or set copies=0"
            )

    def canonicalized(self) -> NoiseConfig:
        """The simplest settings with the same outcome: all defaults if ``a`` is 0."""
        return self if self.a else NoiseConfig()

    @property
    def slug(self) -> str:
        """A short name for file names and tables."""
        if not self.a:
            return "baseline"
        prefix = {NoiseScaling.none: "", NoiseScaling.filter: "ada", NoiseScaling.weight: "weight"}[self.scaling]
        distribution = "" if self.distribution is NoiseDistribution.uniform else f"-{self.distribution}"
        return f"{prefix}smoothout{self.a:g}{distribution}{'' if self.denoise else '-noisy'}"

    def strength_at(self, step: int, total: int) -> float:
        """The strength at update ``step`` of ``total``."""
        return self.a * strength_factor(self.strength_schedule, step, total)

    @property
    def numerics(self) -> int:
        """2 with noise, because its generator has changed."""
        return 2 if self.a else 1

    @property
    def capturable(self) -> bool:
        """False with copies, which create a generator at every pass."""
        return not (self.a and self.copies)

    @property
    def depends_on_length(self) -> bool:
        """True for the tanh schedules, which are centered on the middle of the training; False for annealing."""
        return bool(self.a) and self.strength_schedule not in (StrengthSchedule.constant, StrengthSchedule.anneal)

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of SmoothOut for ``model``; that of plain training if ``a`` is 0."""
        from smoothout.training.noise_contexts import CopiesGradient, NoiseContexts  # noqa: PLC0415 (imports torch)

        if not self.a:
            return GradientEstimator()
        return (CopiesGradient if self.copies else NoiseContexts)(model, self, plan)

    @property
    def passes(self) -> float:
        """The number of copies, or 1 without copies."""
        return self.copies or 1

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float | None:
        """The noise's length relative to each filter's, the median over ``model``."""
        from smoothout.training.noise_strength import relative_noise_strength  # noqa: PLC0415

        return relative_noise_strength(model, self, update, total) if self.a else None

    def context_for(self, model: nn.Module) -> SmoothOut:
        """The context that perturbs ``model`` with these settings, at full strength."""
        from smoothout.nn.perturbation import SmoothOut  # noqa: PLC0415

        return SmoothOut(
            model, self.a, self.distribution, scaling=self.scaling, batchnorm=self.batchnorm, denoise=self.denoise
        )


def strength_factor(schedule: StrengthSchedule | str, step: int, total: int) -> float:
    """The factor of the strength at update ``step`` (from 0) of ``total``, as in the released program.

    Raises ValueError for an unknown schedule.
    """
    schedule = parse_enum(StrengthSchedule, "strength_schedule", schedule)
    if schedule is StrengthSchedule.constant:
        return 1.0
    if schedule is StrengthSchedule.anneal:
        return float((1 + step) ** (-0.55 / 2))
    rising = (1 + math.tanh(10 * (step / total - 0.5))) / 2
    return rising if schedule is StrengthSchedule.tanh_rising else 1 - rising
