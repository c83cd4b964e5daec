"""The settings and the outcome of an adaptive sharpness analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.options import Norm, SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split


@dataclass(frozen=True)
class AdaptiveSharpnessJob:
    """Adaptive sharpness of one run, see ``analysis.adaptive.adaptive_sharpness``.

    Args:
        checkpoint: best or last.
        split: train or test.
        norm: linf, a box, or l2, a ball.
        rho: its size relative to each weight. A ball of n weights is as large as a box at sqrt(n) times its rho.
        normalise_logits: whether all models are made to speak with the same confidence.
        iterations: steps of each ascent at most.
        random_starts: ascents beside the one from the weights.
        seed: of the random starts.
        examples: look at the first so many examples of the split; None is all.
    """

    recorded_as: ClassVar[str] = "Adaptive"

    kind: ClassVar[str] = "adaptive"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    split: SplitName = field(default=SplitName.train, metadata={"recorded_as": "part"})
    norm: Norm = Norm.linf
    rho: float = 1e-3
    normalise_logits: bool = False
    iterations: int = 20
    random_starts: int = 2
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_split(self.split)
        base.check_counts(self, "iterations")
        base.check_counts(self, "random_starts", least=0)
        base.check_positive(self, "rho")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.norm}-{self.split}"

    def evaluations(self, train: int, test: int) -> int:
        """How many passes forward and backward over the split it takes at most."""
        return 1 + self.iterations + self.random_starts * (1 + self.iterations)

    ticks = evaluations
    examples_seen = base.examples_used_of_split

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Measure the one model."""
        result = adaptive_sharpness(
            models[0],
            base.batches_of(self.split, train, test, self.examples),
            F.cross_entropy,
            self.rho,
            norm=self.norm,
            normalise_logits=self.normalise_logits,
            iterations=self.iterations,
            random_starts=self.random_starts,
            seed=self.seed,
            tick=tick,
        )
        return asdict(result)
