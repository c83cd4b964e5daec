"""SWA and EMA: plain training with an average of its last weights, which is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import Tensor, nn


class Average(StrEnum):
    """SWA: the mean of the weights at the end of each epoch; EMA: an exponential average over updates."""

    swa = "swa"
    ema = "ema"


@dataclass(frozen=True)
class WeightAveraging(Method):
    """Settings of an average of weights.

    Args:
        average: swa or ema.
        start: share of the epochs after which the average begins; until then the weights themselves are evaluated. An
            epoch counts if it ends later: with 0.75, epochs 8 to 10 of 10, or 7 and 8 of 8.
        decay: for ema, the factor by which an update multiplies the average.
    """

    average: Average = Average.swa
    start: float = 0.75
    decay: float = 0.999

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if not 0 <= self.start < 1:
            raise ValueError(f"start: must be a share of the epochs in [0, 1), not {self.start}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay: must lie between 0 and 1, not {self.decay}")

    def canonicalized(self) -> WeightAveraging:
        """Without ``decay`` for SWA, which does not use it."""
        return replace(self, decay=WeightAveraging.decay) if self.average is Average.swa else self

    @property
    def slug(self) -> str:
        """Name and numbers."""
        start = f"-start{self.start:g}" if self.start != WeightAveraging.start else ""
        return f"swa{start}" if self.average is Average.swa else f"ema{self.decay:g}{start}"

    @property
    def depends_on_length(self) -> bool:
        """Always: the average begins at a share of the epochs."""
        return True

    def epochs_before(self, epochs: int) -> int:
        """The number of ``epochs`` before the average begins: those that end at ``start`` or earlier.

        The share is taken as a decimal number, because 0.29 * 100 is below 29 in float64.
        """
        return int(Fraction(str(self.start)) * epochs)

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The average of ``model``'s weights."""
        return AveragedWeights(model, self, plan)


class AveragedWeights(GradientEstimator):
    """[Izmailov 2018, Alg. 1] Plain gradients, and an average of the weights, which is evaluated and saved.

    `torch.optim.swa_utils` averages the weights after each epoch (swa) or update (ema) that follows
    `WeightAveraging.epochs_before`. Whenever the average is evaluated, torch's `update_bn` recomputes running
    statistics from all training images without augmentation, with seeded dropout masks.
    """

    def __init__(self, model: nn.Module, settings: WeightAveraging, plan: TrainingPlan) -> None:
        import torch  # noqa: PLC0415 (settings are read without torch)

        self._model, self._settings, self._plan = model, settings, plan
        self._update = 0
        self._every = plan.updates_per_epoch if settings.average is Average.swa else 1
        self._first = settings.epochs_before(plan.updates // plan.updates_per_epoch) * plan.updates_per_epoch
        self._averages = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._taken = torch.zeros((), dtype=torch.float64, device=plan.device)  # how many weights are in the average

    def begin_update(self, update: int) -> None:
        """Remember the number of the update."""
        self._update = update

    def after_update(self) -> None:
        """Add the weights to the average, after an epoch (swa) or an update (ema)."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn  # noqa: PLC0415

        taken, remainder = divmod(self._update + 1 - self._first, self._every)
        if taken < 1 or remainder:
            return
        averages = list(self._averages.values())
        weights = [parameter.detach() for parameter in self._model.parameters()]
        if taken == 1:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)
        elif self._settings.average is Average.swa:
            get_swa_multi_avg_fn()(averages, weights, taken - 1)  # type: ignore[no-untyped-call]
        else:
            get_ema_multi_avg_fn(self._settings.decay)(averages, weights, taken - 1)  # type: ignore[no-untyped-call]
        self._taken.fill_(taken)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Context in which the model has the averaged weights, if the average has begun."""
        from smoothout.nn.averaging import averaged  # noqa: PLC0415

        if not self._taken:
            yield
            return
        with self._seeded(), averaged(self._model, self._averages.values(), self._plan.training_batches()):
            yield

    def finish(self) -> None:
        """Copy the average into the model."""
        from smoothout.nn.averaging import put_average  # noqa: PLC0415

        if self._taken:
            with self._seeded():
                put_average(self._model, list(self._averages.values()), self._plan.training_batches())

    def tensors(self) -> Mapping[str, Tensor]:
        """The average of each parameter, and how many weights are in it."""
        return {**self._averages, "weights in the average": self._taken}

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Context in which dropout's masks depend only on the training's seed."""
        import torch  # noqa: PLC0415

        from smoothout.common.rng import derive_seed  # noqa: PLC0415

        with torch.random.fork_rng([self._plan.device] if self._plan.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._plan.seed, "statistics of averages"))
            yield
