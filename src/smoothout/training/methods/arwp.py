"""ARWP: LPF-SGD's noise, reduced for filters with large past gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.nn.options import check_fisher
from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import NoiseSettings, NoisyGradient

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smoothout.nn import filter_noise


@dataclass(frozen=True)
class ARWP(NoiseSettings):
    """Settings of ARWP.

    Args:
        sigma: standard deviation of each entry's noise relative to the norm of its filter, where F is 0.
        eta: weight of F, the running sum of a filter's squared gradients.
        beta: decay factor of F at each update.

    Other fields are those of `NoiseSettings`.
    """

    strength_field = "sigma"

    sigma: float = 0.01
    eta: float = 0.1
    beta: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fisher(self.eta, self.beta)

    @property
    def slug(self) -> str:
        """Name and numbers."""
        return f"arwp{self.sigma:g}-eta{self.eta:g}-beta{self.beta:g}"

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of ARWP for ``model``."""
        from smoothout.nn import filter_noise  # noqa: PLC0415 (settings are read without torch)

        noise = filter_noise.ARWP(model, self.sigma, eta=self.eta, beta=self.beta, batchnorm=self.batchnorm)
        return AdaptiveNoise(model, noise, plan, self)

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float:
        """The noise's expected length relative to each filter's, the median over ``model``.

        F is 0 at the first update. Later, its limit for a constant ``gradient`` is used, ||g_f||^2 / (1 - beta).
        """
        from smoothout.nn.parameters import filter_norms  # noqa: PLC0415
        from smoothout.training.noise_strength import median_relative_length  # noqa: PLC0415

        if update == 0 or gradient is None:
            return super().relative_strength(model, update, total)
        gradients = gradient()

        def lengths(weight: Tensor, index: int) -> Tensor:
            fisher = filter_norms(gradients[index].double()).flatten().square() / (1 - self.beta)
            root = self.sigma * math.sqrt(weight[0].numel())
            return root * filter_norms(weight).flatten() / (1 + self.eta * fisher).sqrt()

        return median_relative_length(model, lengths)


class AdaptiveNoise(NoisyGradient):
    """ARWP's gradients in one training. F is updated with the gradient of the whole update, before clipping."""

    def __init__(self, model: nn.Module, noise: filter_noise.ARWP, plan: TrainingPlan, settings: ARWP) -> None:
        super().__init__(model, noise, plan, settings)
        self._adaptive = noise

    def before_step(self) -> None:
        """Update F with the gradient."""
        self._adaptive.observe()

    def tensors(self) -> Mapping[str, Tensor]:
        """F of each parameter's filters."""
        return {f"fisher {index}": fisher for index, fisher in enumerate(self._adaptive.fisher)}
