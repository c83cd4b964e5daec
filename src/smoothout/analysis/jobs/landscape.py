"""The loss along random directions, and on a plane of two, as jobs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import AlphasJob, DataSplit, Models, SplitJob, Tick, count
from smoothout.analysis.options import BiasDirection


@dataclass(frozen=True, kw_only=True)
class Landscape(AlphasJob):
    """Loss and accuracy along filter-normalized directions, see `analysis.landscape.landscape_line`."""

    kind: ClassVar[str] = "landscape"

    directions: int = count(5)
    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0

    def slug(self, *runs: str) -> str:
        """The readable part of the record's name."""
        return f"{super().slug(*runs)}-{self.directions}-direction{'s' if self.directions > 1 else ''}"

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * self.points * self.directions

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """A `LandscapePoint` per alpha, on both splits along the same directions."""
        from smoothout.analysis.landscape import landscape_line  # noqa: PLC0415

        outcome = {}
        for name, split in (("train", train), ("test", test)):
            batches = self.batches(split)
            points = landscape_line(models[0], batches, self.alphas(), tick=tick, **self.arguments())
            outcome[name] = [point._asdict() for point in points]
        return outcome


@dataclass(frozen=True, kw_only=True)
class Plane(AlphasJob, SplitJob):
    """Loss and accuracy on a plane of two filter-normalized directions, at the same alphas along both.

    The other fields are arguments of `analysis.landscape.landscape_plane`.
    """

    kind: ClassVar[str] = "plane"
    in_name: ClassVar[tuple[str, ...]] = ("split",)

    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0

    def evaluations(self, train: int, test: int) -> int:
        """Passes over the split."""
        return self.points**2

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `LandscapePlane`."""
        from smoothout.analysis.landscape import landscape_plane  # noqa: PLC0415

        batches, alphas = self.split_batches(train, test), self.alphas()
        return asdict(landscape_plane(models[0], batches, alphas, alphas, tick=tick, **self.arguments()))
