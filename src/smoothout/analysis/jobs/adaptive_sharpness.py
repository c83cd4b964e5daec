"""Adaptive sharpness as a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import DataSplit, Models, SplitJob, Tick, count, positive
from smoothout.analysis.options import Norm


@dataclass(frozen=True, kw_only=True)
class AdaptiveSharpnessJob(SplitJob):
    """Adaptive sharpness of one run; the fields are the arguments of `analysis.adaptive_sharpness`."""

    recorded_as: ClassVar[str] = "Adaptive"
    kind: ClassVar[str] = "adaptive"
    numerics: ClassVar[int] = 2  # 2: the first step of an ascent in a box crosses it
    valid_numerics: ClassVar[tuple[int, ...]] = (1,)  # lower bounds too, by a small difference
    in_name: ClassVar[tuple[str, ...]] = ("norm", "split")

    norm: Norm = Norm.linf
    rho: float = positive(1e-3)
    normalize_logits: bool = field(default=False, metadata={"recorded_as": "normalise_logits"})
    iterations: int = count(20)
    random_starts: int = count(2, least=0)
    seed: int = 0

    def evaluations(self, train: int, test: int) -> int:
        """The maximum number of evaluations of the loss and its gradient."""
        return 1 + self.iterations + self.random_starts * (1 + self.iterations)

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `AdaptiveSharpness` of the model."""
        from torch.nn.functional import cross_entropy  # noqa: PLC0415

        from smoothout.analysis.adaptive_sharpness import adaptive_sharpness  # noqa: PLC0415

        batches = self.split_batches(train, test)
        return asdict(adaptive_sharpness(models[0], batches, cross_entropy, tick=tick, **self.arguments()))
