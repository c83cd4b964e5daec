"""NSO: the mean of the gradients under a noise and under its opposite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.perturbed import NoisyGradient
from smoothout.training.methods.smoothout import NoisePer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smoothout.nn.noise_pair import GaussianPair
    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class NSO(Method):
    """Settings of NSO.

    Args:
        sigma: standard deviation of each number's noise.
        batchnorm: perturb weight and bias of BatchNorm layers too.
        noise_per: draw noise for every ghost batch, or once per batch.
        statistics_from: which passes feed BatchNorm's running statistics; both perturbed ones by default. In the
            authors' program a third pass at w does, as with ``clean``.
    """

    sigma: float = 0.01
    batchnorm: bool = True
    noise_per: NoisePer = NoisePer.ghost
    statistics_from: StatisticsFrom = StatisticsFrom.perturbed

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_positive("sigma", self.sigma)

    @property
    def slug(self) -> str:
        """Name and strength."""
        return f"nso{self.sigma:g}"

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def strength_at(self, update: int, total: int) -> float:
        """The strength, the same at every update."""
        return self.sigma

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of NSO for ``model``."""
        from smoothout.nn.noise_pair import GaussianPair  # noqa: PLC0415 (settings are read without torch)

        return NoisePairGradient(model, GaussianPair(model, self.sigma, batchnorm=self.batchnorm), plan, self)

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float:
        """The noise's expected length relative to each filter's, the median over ``model``."""
        from smoothout.training.noise_strength import relative_noise  # noqa: PLC0415

        return relative_noise(model, self.sigma, times_norm=False)


class NoisePairGradient(NoisyGradient):
    """NSO's gradients in one training. Dropout has the same masks in both passes; the loss recorded is their mean."""

    perturbed_passes = 2

    def __init__(self, model: nn.Module, noise: GaussianPair, plan: TrainingPlan, settings: NSO) -> None:
        super().__init__(model, noise, plan, settings)
        self._opposite = noise.opposite

    def _backward(self, ghost_batch: GhostBatch) -> None:
        with self._perturbed():
            with self.noise_of(ghost_batch.index):
                ghost_batch.backward(2)
            ghost_batch.seed_dropout(ghost_batch.index)
            with self._opposite:
                ghost_batch.backward(2)
