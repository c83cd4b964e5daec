"""The loss along random directions, and on a plane of two, as jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smoothout.analysis.arguments import check_linspace, linspace
from smoothout.analysis.jobs.base import AnalysisJob, SplitJob, count
from smoothout.analysis.options import BiasDirection

if TYPE_CHECKING:
    from torch import nn

    from smoothout.data.split import Split

_ALPHAS = ("start", "stop", "points")


@dataclass(frozen=True, kw_only=True)
class Landscape(AnalysisJob):
    """Loss and accuracy along filter-normalized directions, see `analysis.landscape.landscape_line`.

    Args:
        start: first alpha; ``stop`` is the last, ``points`` the number of alphas.
        directions, one_dimensional, seed: as in `landscape_line`; the papers draw one direction.
    """

    kind: ClassVar[str] = "landscape"

    start: float = -1.0
    stop: float = 1.0
    points: int = 21
    directions: int = count(5)
    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_linspace(self.start, self.stop, self.points)

    def slug(self, *runs: str) -> str:
        """The readable part of the record's name."""
        return f"{super().slug(*runs)}-{self.directions}-direction{'s' if self.directions > 1 else ''}"

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * self.points * self.directions

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Callable[[], None]) -> dict[str, Any]:
        """A `LandscapePoint` per alpha, on both splits along the same directions."""
        from smoothout.analysis.landscape import landscape_line  # noqa: PLC0415

        alphas = linspace(self.start, self.stop, self.points)
        arguments = self.arguments(without=_ALPHAS)
        outcome = {}
        for name, split in (("train", train), ("test", test)):
            points = landscape_line(models[0], self.batches(split), alphas, tick=tick, **arguments)
            outcome[name] = [point._asdict() for point in points]
        return outcome


@dataclass(frozen=True, kw_only=True)
class Plane(SplitJob):
    """Loss and accuracy on a plane of two filter-normalized directions, see `analysis.landscape.landscape_plane`.

    Args:
        start: first alpha and beta; ``stop`` is the last, ``points`` the number of each.
        one_dimensional, seed: as in `landscape_plane`.
    """

    kind: ClassVar[str] = "plane"
    in_name: ClassVar[tuple[str, ...]] = ("split",)

    start: float = -1.0
    stop: float = 1.0
    points: int = 21
    one_dimensional: BiasDirection = BiasDirection.scaled
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_linspace(self.start, self.stop, self.points)

    def evaluations(self, train: int, test: int) -> int:
        """Passes over the split."""
        return self.points**2

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Callable[[], None]) -> dict[str, Any]:
        """The `LandscapePlane`."""
        from smoothout.analysis.landscape import landscape_plane  # noqa: PLC0415

        axis = linspace(self.start, self.stop, self.points)
        batches = self.split_batches(train, test)
        return asdict(landscape_plane(models[0], batches, axis, axis, tick=tick, **self.arguments(without=_ALPHAS)))
