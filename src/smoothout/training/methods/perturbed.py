"""Base classes for gradients at perturbed weights: settings, noise seeds, BatchNorm's running statistics.

Importable without torch, because modules with settings derive classes from these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from smoothout.nn.perturbation import SmoothOut
    from smoothout.training.update import GhostBatch


class PerturbedGradient(GradientEstimator):
    """A gradient that takes ``clean_passes`` at w and ``perturbed_passes`` elsewhere for each ghost batch.

    ``statistics_from`` selects the passes that update BatchNorm's running statistics. If it includes passes at w and
    the method has none, a forward pass at w is added.
    """

    shares_weights = False
    clean_passes = 0
    perturbed_passes = 1

    def __init__(self, model: nn.Module, statistics_from: StatisticsFrom) -> None:
        self._model, self._statistics_from = model, statistics_from
        clean, perturbed = statistics_from.includes_clean, statistics_from.includes_perturbed
        self._extra_pass = clean and not self.clean_passes
        self.forward_passes = self.clean_passes + self.perturbed_passes + self._extra_pass
        self.statistics_passes = clean * (self.clean_passes or 1) + perturbed * self.perturbed_passes

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Update the running statistics at w if no other pass does, and backpropagate."""
        if self._extra_pass:
            ghost_batch.update_statistics()
        self._backward(ghost_batch)

    def _backward(self, ghost_batch: GhostBatch) -> None:
        """Add the method's gradient on ``ghost_batch`` to ``grad``."""
        raise NotImplementedError

    def _clean(self) -> AbstractContextManager[object]:
        """The context of a pass at w."""
        return self._pass(self._statistics_from.includes_clean)

    def _perturbed(self) -> AbstractContextManager[object]:
        """The context of a pass at perturbed weights."""
        return self._pass(self._statistics_from.includes_perturbed)

    def _pass(self, updates_statistics: bool) -> AbstractContextManager[object]:
        from smoothout.nn.batchnorm import freeze_running_stats  # noqa: PLC0415 (settings are read without torch)

        return nullcontext() if updates_statistics else freeze_running_stats(self._model)


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(Method):
    """Settings that all methods with noise share, besides the strength.

    Args:
        batchnorm: perturb weight and bias of BatchNorm layers too.
        noise_per: draw noise for every ghost batch, or once per batch.
        statistics_from: which passes update BatchNorm's running statistics.
    """

    strength_field: ClassVar[str]  # the name of the field with the standard deviation of each number's noise
    times_norm: ClassVar[bool] = True  # whether it is relative to the norm of the number's filter

    batchnorm: bool = True
    noise_per: NoisePer = NoisePer.ghost
    statistics_from: StatisticsFrom = StatisticsFrom.perturbed

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_positive(self.strength_field, getattr(self, self.strength_field))

    def strength_at(self, update: int, total: int) -> float:
        """The strength of the noise at ``update`` of ``total``."""
        strength: float = getattr(self, self.strength_field)
        return strength

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float:
        """The noise's expected length relative to each filter's, the median over ``model``."""
        from smoothout.training.noise_strength import relative_noise  # noqa: PLC0415

        return relative_noise(model, self.strength_at(update, total), times_norm=self.times_norm)


class NoisyGradient(PerturbedGradient):
    """A gradient under ``noise``, with the strength given by ``settings``.

    Noise is drawn for each ghost batch, or once per batch, from a generator seeded as in `seed_noise`.
    """

    def __init__(
        self, model: nn.Module, noise: SmoothOut, plan: TrainingPlan, settings: NoiseSettings | NoiseConfig
    ) -> None:
        import torch  # noqa: PLC0415

        super().__init__(model, settings.statistics_from)
        self._noise, self._plan, self._settings, self._update = noise, plan, settings, 0
        # If several passes of each ghost batch update running statistics, one pass for all ghost batches would change
        # the order in which the statistics are updated.
        same_noise = settings.noise_per is NoisePer.batch
        self.shares_weights = same_noise and not self.clean_passes and self.statistics_passes == 1
        self.generators = [torch.Generator(plan.device) for _ in range(plan.ghosts_per_update)]

    def begin_update(self, update: int) -> None:
        """Set the strength and seed the noise of each ghost batch."""
        self._update = update
        seed_noise(self.generators, self._plan.seed, update, self._settings.noise_per)
        self._noise.set_strength(self._settings.strength_at(update, self._plan.updates))

    def noise_of(self, ghost: int) -> AbstractContextManager[object]:
        """The context with the noise of the ``ghost``-th ghost batch."""
        self._noise.generator = self.generators[ghost]
        return self._noise

    def _backward(self, ghost_batch: GhostBatch) -> None:
        with self._perturbed(), self.noise_of(ghost_batch.index):
            ghost_batch.backward()

    def keep_numbers_on_device(self) -> None:
        """Hold the strength in a tensor."""
        import torch  # noqa: PLC0415

        self._noise.a = torch.zeros((), dtype=torch.float64, device=self._plan.device)

    def keep_numbers_on_host(self) -> None:
        """Hold the strength in a float again."""
        self._noise.a = self._settings.strength_at(self._update, self._plan.updates)


def seed_noise(generators: Sequence[torch.Generator], seed: int, update: int, noise_per: NoisePer) -> None:
    """Seed the generator of each ghost batch of ``update``; all with the same seed for noise per batch."""
    from smoothout.common.rng import derive_seed  # noqa: PLC0415

    for ghost, generator in enumerate(generators):
        generator.manual_seed(derive_seed(seed, "noise", update, ghost if noise_per is NoisePer.ghost else 0))
