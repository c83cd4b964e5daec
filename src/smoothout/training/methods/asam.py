"""ASAM: SAM with a step scaled by the weights, which makes it invariant to rescaling the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.sam import SharpnessAwareGradient

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ASAM(Method):
    """Settings of ASAM.

    Args:
        rho: radius of the ball around the weights, in units of the weights.
        eta: added to the size of each weight.
        statistics_from: passes that update BatchNorm's running statistics; both in the authors' program.
    """

    rho: float = 0.5
    eta: float = 0.01
    statistics_from: StatisticsFrom = StatisticsFrom.both

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_positive("rho", self.rho)
        check_positive("eta", self.eta)

    @property
    def slug(self) -> str:
        """Name, radius, and eta if it is not the paper's."""
        return f"asam{self.rho:g}" + (f"-eta{self.eta:g}" if self.eta != ASAM.eta else "")

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of ASAM for ``model``."""
        return AdaptiveAscent(model, self)

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float | None:
        """The step's length relative to each filter's, the median over ``model``."""
        import torch  # noqa: PLC0415 (settings are read without torch)

        from smoothout.nn.parameters import trainable_parameters  # noqa: PLC0415
        from smoothout.training.noise_strength import relative_step  # noqa: PLC0415

        if gradient is None:
            return None
        parameters = trainable_parameters(model)
        nearby = AdaptiveAscent(model, self).highest(parameters, gradient())
        return relative_step(model, list(torch._foreach_sub(nearby, [p.detach() for p in parameters])))


class AdaptiveAscent(SharpnessAwareGradient):
    """ASAM's gradients in one training: like SAM's, but at w + rho T^2 g / ||T g||, see `nn.sharpness_aware.ASAM`."""

    def __init__(self, model: nn.Module, settings: ASAM) -> None:
        super().__init__(model, settings.rho, settings.statistics_from)
        self._eta = settings.eta

    def highest(self, parameters: Sequence[nn.Parameter], gradient: list[Tensor]) -> list[Tensor]:
        """The nearby weights with the highest loss, to first order; ``gradient`` is modified in place."""
        from smoothout.nn.sharpness_aware import ascend_adaptively, named_weight  # noqa: PLC0415

        scaled = named_weight(self._model, parameters)
        return ascend_adaptively(parameters, gradient, self._rho, self._eta, scaled)
