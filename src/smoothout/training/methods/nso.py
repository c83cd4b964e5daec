"""NSO: the mean of the gradients under noise and under its negative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import NoiseSettings, NoisyGradient

if TYPE_CHECKING:
    from torch import nn

    from smoothout.nn.noise_pair import GaussianPair
    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class NSO(NoiseSettings):
    """Settings of NSO.

    Args:
        sigma: standard deviation of each entry's noise.

    Other fields are those of `NoiseSettings`. Both perturbed passes update running statistics by default. The authors'
    program uses a third pass at w for this, like ``statistics_from=clean``.
    """

    strength_field = "sigma"
    times_norm = False

    sigma: float = 0.01

    @property
    def slug(self) -> str:
        """Name and strength."""
        return f"nso{self.sigma:g}"

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of NSO for ``model``."""
        from smoothout.nn.noise_pair import GaussianPair  # noqa: PLC0415 (settings are read without torch)

        return NoisePairGradient(model, GaussianPair(model, self.sigma, batchnorm=self.batchnorm), plan, self)


class NoisePairGradient(NoisyGradient):
    """NSO's gradients in one training. Dropout masks are the same in both passes; the recorded loss is the mean."""

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
