"""The settings and the outcome of a noise-sensitivity curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.noise_sensitivity import noise_curve, noise_slopes
from smoothout.analysis.options import SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split
from smoothout.nn.options import NoiseDistribution, NoiseScaling


@dataclass(frozen=True)
class NoiseCurve:
    """Loss and accuracy of one run under noise, see ``analysis.sensitivity.noise_curve``.

    Args:
        checkpoint: best or last.
        strengths: the values of a.
        distribution: uniform (as published) or gaussian.
        scaling: none (as published), filter or weight.
        draws: how often each batch is measured, each time with other noise.
        batch: examples that share a draw; the papers use 100.
        seed: of the noise.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "noise_curve"
    numerics: ClassVar[int] = 2  # 2: another generator draws the noise
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    strengths: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
    distribution: NoiseDistribution = field(default=NoiseDistribution.uniform, metadata={"recorded_as": "law"})
    scaling: NoiseScaling = NoiseScaling.none
    draws: int = 1
    batch: int = 100
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        if len(self.strengths) < 2 or list(self.strengths) != sorted(set(self.strengths)) or self.strengths[0] < 0:
            raise ValueError(f"strengths: must be at least two rising numbers >= 0, not {list(self.strengths)}")
        base.check_counts(self, "batch", "draws")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.distribution}" + ("" if self.scaling is NoiseScaling.none else f"-{self.scaling}")

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * len(self.strengths) * self.draws

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return self.draws * sum(
            math.ceil(base.examples_used(size, self.examples) / self.batch) for size in (train, test)
        )

    examples_seen = base.examples_used_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both curves, and the metric s between neighbouring strengths."""
        curves = {}
        for part in (SplitName.train, SplitName.test):
            batches = base.batches_of(part, train, test, self.examples, self.batch)
            points = noise_curve(
                models[0],
                batches,
                self.strengths,
                distribution=self.distribution,
                scaling=self.scaling,
                draws=self.draws,
                seed=self.seed,
                tick=tick,
            )
            curves[part.value] = {"points": [p._asdict() for p in points], "slopes": noise_slopes(points)}
        return curves
