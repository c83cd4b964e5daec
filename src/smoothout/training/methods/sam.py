"""Sharpness-aware minimization: the gradient at the nearby point with the highest loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.perturbed import PerturbedGradient

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class SAM(Method):
    """Settings of SAM; ``statistics_from`` selects the passes that update BatchNorm's running statistics."""

    rho: float = 0.05  # radius of the ball around the weights, in the Euclidean norm over all trainable parameters
    statistics_from: StatisticsFrom = StatisticsFrom.clean

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_positive("rho", self.rho, hint="use method=none for plain training")

    @property
    def slug(self) -> str:
        """Name and radius."""
        return f"sam{self.rho:g}"

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of SAM for ``model``."""
        return SharpnessAwareGradient(model, self.rho, self.statistics_from)

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float | None:
        """The step's length relative to each filter's, the median over ``model``."""
        return None if gradient is None else relative_ascent(model, gradient(), self.rho)


class SharpnessAwareGradient(PerturbedGradient):
    """[Foret 2021, Alg. 1] The gradient at w + rho g / ||g||, where g is the ghost batch's own gradient at w.

    Each ghost batch takes a separate step (m-SAM, the form for several accelerators, Sec. 4.1), so processes need not
    communicate before the second pass. As in the authors' code, the first pass updates BatchNorm's running statistics,
    the loss of the second is recorded, and g excludes weight decay. Dropout has the same masks in both.
    """

    clean_passes = 1

    def __init__(self, model: nn.Module, rho: float, statistics_from: StatisticsFrom = StatisticsFrom.clean) -> None:
        super().__init__(model, statistics_from)
        self._rho = rho

    def highest(self, parameters: Sequence[nn.Parameter], gradient: list[Tensor]) -> list[Tensor]:
        """The nearby weights with the highest loss, to first order; ``gradient`` is modified in place."""
        from smoothout.nn.sharpness_aware import ascend  # noqa: PLC0415 (settings are read without torch)

        return ascend(parameters, gradient, self._rho)

    def _backward(self, ghost_batch: GhostBatch) -> None:
        """Backpropagate at the nearby weights with the highest loss."""
        from smoothout.nn.parameters import trainable_parameters  # noqa: PLC0415
        from smoothout.nn.swapped import SwappedWeights  # noqa: PLC0415

        parameters = trainable_parameters(self._model)
        with self._clean():
            gradient = ghost_batch.gradient(parameters)
        nearby = self.highest(parameters, gradient)
        with SwappedWeights(self._model, parameters, nearby), self._perturbed():
            ghost_batch.backward()


def relative_ascent(model: nn.Module, gradient: list[Tensor], rho: float) -> float:
    """The length of SAM's step along ``gradient`` relative to each filter's, the median over ``model``.

    ``gradient`` is modified in place.
    """
    from smoothout.nn.norms import at_least_float32, scale_to_norm_  # noqa: PLC0415
    from smoothout.training.noise_strength import relative_step  # noqa: PLC0415

    steps = at_least_float32(gradient)
    scale_to_norm_(steps, rho)
    return relative_step(model, steps)
