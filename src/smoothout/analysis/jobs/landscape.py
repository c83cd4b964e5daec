"""The settings and the outcomes of plots of the loss along one direction and over a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.options import BiasDirection, SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split


@dataclass(frozen=True)
class Landscape:
    """Loss and accuracy along filter-normalised directions, see ``analysis.landscape.landscape_line``.

    Args:
        checkpoint: best or last.
        start: first alpha; ``stop`` is the last, ``points`` the number of alphas.
        directions: how many random directions; the papers draw one.
        one_dimensional: biases and BatchNorm's parameters: scaled (as published) or zero (they stay).
        seed: of the directions.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "landscape"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    start: float = -1.0
    stop: float = 1.0
    points: int = 21
    directions: int = 5
    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_linspace(self.start, self.stop, self.points)
        base.check_counts(self, "directions")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.directions}-direction{'s' if self.directions > 1 else ''}"

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * self.points * self.directions

    ticks = evaluations
    examples_seen = base.examples_used_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """The curves of both splits, over the same directions."""
        alphas = base.linspace(self.start, self.stop, self.points)
        return {
            part.value: [
                point._asdict()
                for point in landscape_line(
                    models[0],
                    base.batches_of(part, train, test, self.examples),
                    alphas,
                    directions=self.directions,
                    seed=self.seed,
                    one_dimensional=self.one_dimensional,
                    tick=tick,
                )
            ]
            for part in (SplitName.train, SplitName.test)
        }


@dataclass(frozen=True)
class Plane:
    """Loss and accuracy on a plane of two filter-normalised directions, see ``analysis.landscape.landscape_plane``.

    Args:
        checkpoint: best or last.
        split: train or test.
        start: first alpha and beta; ``stop`` is the last, ``points`` the number of each.
        one_dimensional: biases and BatchNorm's parameters: scaled or zero (they stay).
        seed: of the directions.
        examples: look at the first so many examples of the split; None is all.
    """

    kind: ClassVar[str] = "plane"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    split: SplitName = field(default=SplitName.train, metadata={"recorded_as": "part"})
    start: float = -1.0
    stop: float = 1.0
    points: int = 21
    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_split(self.split)
        base.check_linspace(self.start, self.stop, self.points)

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.split}"

    def evaluations(self, train: int, test: int) -> int:
        """Passes over the split."""
        return self.points**2

    ticks = evaluations
    examples_seen = base.examples_used_of_split

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """The grid."""
        along = base.linspace(self.start, self.stop, self.points)
        batches = base.batches_of(self.split, train, test, self.examples)
        return asdict(
            landscape_plane(
                models[0], batches, along, along, seed=self.seed, one_dimensional=self.one_dimensional, tick=tick
            )
        )
