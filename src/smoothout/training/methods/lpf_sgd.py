"""LPF-SGD, also known as RWP: Gaussian noise in proportion to the norm of each filter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from smoothout.nn.options import check_positive
from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import NoiseSettings, NoisyGradient

if TYPE_CHECKING:
    from torch import nn


class GammaSchedule(StrEnum):
    """How the strength changes over a training: constant, or rising along half a cosine."""

    constant = "constant"
    cosine = "cosine"


@dataclass(frozen=True)
class LPFSGD(NoiseSettings):
    """Settings of LPF-SGD.

    Args:
        gamma: standard deviation of each entry's noise relative to the norm of its filter; initial value for cosine.
        schedule: constant, or cosine: gamma (1 + alpha (1 - cos(pi t / T)) / 2) at update t of T (Bisla 2022, Sec. 5).
        alpha: increase by the end of a cosine, in units of gamma.

    Other fields are those of `NoiseSettings`.
    """

    strength_field = "gamma"

    gamma: float = 0.001
    schedule: GammaSchedule = GammaSchedule.constant
    alpha: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("alpha", self.alpha)

    def canonicalized(self) -> LPFSGD:
        """Without ``alpha`` if the strength is constant."""
        return self if self.schedule is GammaSchedule.cosine else replace(self, alpha=LPFSGD.alpha)

    @property
    def slug(self) -> str:
        """Name, strength and rise."""
        return f"lpfsgd{self.gamma:g}" + (f"-cosine{self.alpha:g}" if self.schedule is GammaSchedule.cosine else "")

    @property
    def depends_on_length(self) -> bool:
        """True for the cosine, which spans the whole training."""
        return self.schedule is GammaSchedule.cosine

    def strength_at(self, update: int, total: int) -> float:
        """gamma at ``update`` of ``total``."""
        risen = (1 - math.cos(math.pi * update / total)) / 2 if self.schedule is GammaSchedule.cosine else 0.0
        return self.gamma * (1 + self.alpha * risen)

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of LPF-SGD for ``model``."""
        from smoothout.nn import filter_noise  # noqa: PLC0415 (settings are read without torch)

        return NoisyGradient(model, filter_noise.LPFSGD(model, self.gamma, batchnorm=self.batchnorm), plan, self)
