"""MSAM: like SAM, but the step is against the optimizer's momentum, which saves the second pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.perturbed import PerturbedGradient

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class MSAM(Method):
    """Settings of MSAM.

    Args:
        rho: length of the step against the momentum, over all trainable parameters.
        statistics_from: passes that update BatchNorm's running statistics.
    """

    rho: float = 0.3
    statistics_from: StatisticsFrom = StatisticsFrom.perturbed

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_positive("rho", self.rho)

    @property
    def slug(self) -> str:
        """Name and radius."""
        return f"msam{self.rho:g}"

    @property
    def needs_momentum(self) -> bool:
        """Always: the step follows the momentum."""
        return True

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of MSAM for ``model``."""
        return MomentumGradient(model, self)

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float | None:
        """The step's length relative to each filter's, the median over ``model``.

        The gradient stands in for the momentum. None at the first update, where the momentum is 0.
        """
        from smoothout.training.methods.sam import relative_ascent  # noqa: PLC0415

        return None if update == 0 or gradient is None else relative_ascent(model, gradient(), self.rho)


class MomentumGradient(PerturbedGradient):
    """MSAM's gradients in one training: all ghost batches of an update see the same weights.

    The momentum is the optimizer's; with `reset_every_epoch`, it is 0 at the first update of each epoch.
    """

    def __init__(self, model: nn.Module, settings: MSAM) -> None:
        super().__init__(model, settings.statistics_from)
        self._rho = settings.rho
        self.shares_weights = self.statistics_passes == 1

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the momentum of ``optimizer`` from now on."""
        from smoothout.nn import momentum_aware  # noqa: PLC0415 (settings are read without torch)

        self._nearby = momentum_aware.MSAM(self._model, optimizer, self._rho)

    def _backward(self, ghost_batch: GhostBatch) -> None:
        with self._perturbed(), self._nearby:
            ghost_batch.backward()
