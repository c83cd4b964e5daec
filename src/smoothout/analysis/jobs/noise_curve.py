"""A curve of noise sensitivity as a job."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import AnalysisJob, DataSplit, Models, Tick, count
from smoothout.nn.options import NoiseDistribution, NoiseScaling


@dataclass(frozen=True, kw_only=True)
class NoiseCurve(AnalysisJob):
    """Loss and accuracy of one run under noise, see `analysis.noise_sensitivity.noise_curve`.

    The papers' strengths are not published.
    """

    kind: ClassVar[str] = "noise_curve"
    numerics: ClassVar[int] = 2  # 2: another generator draws the noise
    in_name: ClassVar[tuple[str, ...]] = ("distribution",)
    in_name_if_changed: ClassVar[tuple[str, ...]] = ("scaling",)

    strengths: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
    distribution: NoiseDistribution = field(default=NoiseDistribution.uniform, metadata={"recorded_as": "law"})
    scaling: NoiseScaling = NoiseScaling.none
    draws: int = count(1)
    batch: int = count(100)  # examples that share a draw of noise; the papers use 100
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.strengths) < 2 or list(self.strengths) != sorted(set(self.strengths)) or self.strengths[0] < 0:
            raise ValueError(f"strengths: must be at least two rising numbers >= 0, not {list(self.strengths)}")

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * len(self.strengths) * self.draws

    def ticks(self, train: int, test: int) -> int:
        """One per batch and draw, at all strengths."""
        return self.draws * sum(math.ceil(self.examples_used(size) / self.batch) for size in (train, test))

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The curves of both splits, and the metric s between neighboring strengths."""
        from smoothout.analysis.noise_sensitivity import noise_curve, noise_slopes  # noqa: PLC0415

        outcome = {}
        for name, split in (("train", train), ("test", test)):
            batches = self.batches(split, self.batch)
            points = noise_curve(models[0], batches, tick=tick, **self.arguments(without=("batch",)))
            outcome[name] = {"points": [point._asdict() for point in points], "slopes": noise_slopes(points)}
        return outcome
