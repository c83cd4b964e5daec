"""An extension outside the repository: settings of a method, model, optimizer, data set and analysis of one's own.

Run programs with ``PYTHONPATH=tests/example_package`` and ``--config-dir tests/example_package/configs``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.empirical_risk import EmpiricalRisk, Tick
from smoothout.analysis.jobs.base import SplitJob
from smoothout.common.rng import derive_seed
from smoothout.data.split import Split
from smoothout.nn.parameters import trainable_parameters
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.optimizers import Optimizer


@dataclass(frozen=True)
class GradientNoise(Method):
    """Adds N(0, sigma^2) to every entry of an update's gradient."""

    sigma: float = 0.01

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma: must be above 0, not {self.sigma}")

    @property
    def slug(self) -> str:
        return f"gradient_noise{self.sigma:g}"

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        return NoisyGradient(model, self.sigma, plan)


class NoisyGradient(GradientEstimator):
    def __init__(self, model: nn.Module, sigma: float, plan: TrainingPlan) -> None:
        self._model, self._sigma, self._seed = model, sigma, plan.seed
        self.generators = [torch.Generator(plan.device)]

    def begin_update(self, update: int) -> None:
        self.generators[0].manual_seed(derive_seed(self._seed, "gradient noise", update))

    def before_step(self) -> None:
        for p in trainable_parameters(self._model):
            assert p.grad is not None
            p.grad += self._sigma * torch.empty_like(p).normal_(generator=self.generators[0])


@dataclass(frozen=True)
class LogisticRegression:
    initializes_batchnorm: ClassVar[bool] = False

    name: str = "logistic"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


@dataclass(frozen=True)
class RMSprop(Optimizer):
    def build(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Stripes:
    """Gray noise of 6 x 6 pixels, with one bright row whose number is the label."""

    resident: ClassVar[bool] = True
    shape: ClassVar[tuple[int, int, int]] = (1, 6, 6)
    classes: ClassVar[int] = 6
    augmentation: ClassVar[None] = None

    name: str = "stripes"
    train_examples: int | None = None
    test_examples: int | None = None
    validation_size: int | None = None

    @property
    def expected_sizes(self) -> tuple[int, int]:
        train, test = 300 - (self.validation_size or 0), self.validation_size or 120
        return min(train, self.train_examples or train), min(test, self.test_examples or test)

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        images, labels = self._draw(420)
        fingerprint = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        # The last 120 are the test split. Held-out images of the others replace it.
        first = 300 - (self.validation_size or 0)
        parts = slice(first), slice(first, first + (self.validation_size or 120))
        splits = (Split(images[part].to(device), labels[part].to(device), (0.5,), (0.25,)) for part in parts)
        train, test = (s.first(n) for s, n in zip(splits, (self.train_examples, self.test_examples), strict=True))
        return train, test, fingerprint

    def _draw(self, examples: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(self.classes, (examples,), generator=generator)
        images = torch.randint(0, 200, (examples, 6, 6, 1), generator=generator)
        images[torch.arange(examples), labels] += 55
        return images.to(torch.uint8), labels


@dataclass(frozen=True, kw_only=True)
class GradientNorm(SplitJob):
    kind: ClassVar[str] = "gradient_norm"
    in_name: ClassVar[tuple[str, ...]] = ("split",)

    def evaluations(self, train: int, test: int) -> int:
        return 1

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        [model] = models
        risk = EmpiricalRisk(model, self.split_batches(train, test), F.cross_entropy, list(model.parameters()))
        return {"value": risk.with_gradient()[1:].norm().item()}
