"""Sharpness-aware minimization: the gradient where the loss nearby is highest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import nn

    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class SAM(Method):
    """Settings of SAM."""

    rho: float = 0.05  # radius of the ball around the weights, in the Euclidean norm over all trainable parameters

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho > 0):
            raise ValueError(
                f"rho: the radius must be a finite number above 0, not {self.rho}; use method=none for plain training"
            )

    @property
    def slug(self) -> str:
        """Name and radius."""
        return f"sam{self.rho:g}"

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """SAM at work on ``model``."""
        return SharpnessAwareGradient(model, self.rho)


class SharpnessAwareGradient(GradientEstimator):
    """[Foret 2021, Alg. 1] The gradient at w + rho g / ||g||, where g is the ghost batch's own gradient at w.

    Each ghost batch takes its own step (m-SAM, the paper's form for several accelerators, Sec. 4.1), so processes
    need no sum before the second pass. As in the authors' code, the first pass moves BatchNorm's running statistics,
    the recorded loss is that of the second, and g is without weight decay. Dropout has the same masks in both.
    """

    passes = 2
    shares_weights = False

    def __init__(self, model: nn.Module, rho: float) -> None:
        self._model, self._rho = model, rho

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Step to the highest loss nearby, backpropagate there, and return."""
        import torch  # noqa: PLC0415 (settings are read without torch)

        from smoothout.nn.batchnorm import freeze_running_stats  # noqa: PLC0415
        from smoothout.nn.parameters import trainable_parameters  # noqa: PLC0415
        from smoothout.nn.swapped import SwappedWeights  # noqa: PLC0415

        parameters = trainable_parameters(self._model)
        gradient = ghost_batch.gradient(parameters)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient)))
        nearby = [parameter.detach().clone() for parameter in parameters]  # the optimizer counts on their strides
        torch._foreach_add_(nearby, torch._foreach_mul(gradient, self._rho / (norm + 1e-12)))
        with SwappedWeights(self._model, parameters, nearby), freeze_running_stats(self._model):
            ghost_batch.backward()
