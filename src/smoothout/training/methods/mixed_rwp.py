"""m-RWP: the gradient under LPF-SGD's noise, mixed with that at the clean weights on another batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from smoothout.nn.options import StatisticsFrom
from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import NoiseSettings, NoisyGradient

if TYPE_CHECKING:
    from torch import nn

    from smoothout.nn import filter_noise
    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class MixedRWP(NoiseSettings):
    """Settings of m-RWP. An epoch sees every example twice, once clean and once under noise.

    Args:
        gamma: standard deviation of each entry's noise relative to the norm of its filter.
        weight: lambda, the share of the gradient under noise.

    Other fields are those of `NoiseSettings`.
    """

    strength_field = "gamma"

    gamma: float = 0.01
    weight: float = 0.5
    statistics_from: StatisticsFrom = field(default=StatisticsFrom.clean, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.weight < 1:
            raise ValueError(f"weight: must lie between 0 and 1, not {self.weight}")

    @property
    def slug(self) -> str:
        """Name, strength and mixture."""
        return f"mixedrwp{self.gamma:g}" + (f"-weight{self.weight:g}" if self.weight != MixedRWP.weight else "")

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of m-RWP for ``model``."""
        from smoothout.nn.filter_noise import LPFSGD  # noqa: PLC0415 (settings are read without torch)

        return MixedGradient(model, LPFSGD(model, self.gamma, batchnorm=self.batchnorm), plan, self)


class MixedGradient(NoisyGradient):
    """m-RWP's gradients in one training. The recorded loss is mixed like the gradient.

    The pass at w uses the ghost batch's examples; the pass under noise uses as many from a second order of the epoch.
    """

    clean_passes = 1
    other_examples = True

    def __init__(self, model: nn.Module, noise: filter_noise.LPFSGD, plan: TrainingPlan, settings: MixedRWP) -> None:
        super().__init__(model, noise, plan, settings)
        self._weight = settings.weight

    def _backward(self, ghost_batch: GhostBatch) -> None:
        with self._clean():
            ghost_batch.backward(1 / (1 - self._weight))
        inputs, labels = ghost_batch.others
        with self._perturbed(), self.noise_of(ghost_batch.index):
            replace(ghost_batch, inputs=inputs, labels=labels).backward(1 / self._weight)
