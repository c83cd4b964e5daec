"""Stability training: an additional loss term keeps the outputs on an image and its noisy copy close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.nn.options import check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class Stability(Method):
    """Settings of stability training."""

    weight: float = 0.01  # alpha: of the stability loss
    sigma: float = 0.2  # standard deviation of the noise, after normalization of the images by the data's mean and std

    def __post_init__(self) -> None:
        for name, value in (("weight", self.weight), ("sigma", self.sigma)):
            check_positive(name, value, hint="use method=none for plain training")

    @property
    def slug(self) -> str:
        """Name, weight and noise."""
        return f"stability{self.weight:g}-sigma{self.sigma:g}"

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """Stability training of ``model``."""
        return StabilityGradient(model, self, plan)


class StabilityGradient(GradientEstimator):
    """[Zheng 2016, stability] The gradient of J(x) - alpha sum_j P(j | x) log P(j | x'), x' = x + N(0, sigma^2).

    It flows through both P. Each ghost batch has separate noise and a separate stability loss. The recorded loss is
    J(x). Dropout masks are the same for x and x', and only x updates BatchNorm's running statistics.
    """

    forward_passes = 2
    shares_weights = False  # in one pass, several ghost batches would have one stability loss

    def __init__(self, model: nn.Module, settings: Stability, plan: TrainingPlan) -> None:
        import torch  # noqa: PLC0415 (settings are read without torch)

        self._model, self._settings, self._seed = model, settings, plan.seed
        self.generators = [torch.Generator(plan.device) for _ in range(plan.ghosts_per_update)]

    def begin_update(self, update: int) -> None:
        """Seed the noise of each ghost batch."""
        from smoothout.common.rng import derive_seed  # noqa: PLC0415

        for ghost, generator in enumerate(self.generators):
            generator.manual_seed(derive_seed(self._seed, "stability", update, ghost))

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Backpropagate from the outputs on the images and on their noisy copies."""
        import torch  # noqa: PLC0415

        from smoothout.nn.batchnorm import freeze_running_stats  # noqa: PLC0415

        images, generator = ghost_batch.inputs, self.generators[ghost_batch.index]
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)

        def stability(logits: Tensor) -> Tensor:
            ghost_batch.seed_dropout(ghost_batch.index)
            with freeze_running_stats(self._model):
                noisy = ghost_batch.network(images + self._settings.sigma * noise)
            return self._settings.weight * torch.nn.functional.cross_entropy(noisy, logits.softmax(1))

        ghost_batch.backward(regularizer=stability)
