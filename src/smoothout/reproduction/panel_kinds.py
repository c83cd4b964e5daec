"""The kinds of panels of a figure: how each is drawn, and which analysis it draws.

To add one, write a function that draws records on axes (in results/figures/), and add an entry to `PANEL_KINDS`.
Modules that need torch are imported where they are used, so that figures are drawn without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.performance_model import Worker, break_even
from smoothout.results.figures import curves, scaling, sharpness, spectra, surfaces, trends
from smoothout.results.trend import Axis, Quantity


def toy_loss(axes: Any, records: curves.NamedRecords) -> None:
    """Draw Figure 1a, in closed form."""
    from smoothout.analysis.theory import figure_one  # noqa: PLC0415

    figure = figure_one()
    surfaces.toy_loss(axes, figure.w, figure.loss)


def toy_copies(axes: Any, records: curves.NamedRecords) -> None:
    """Draw Figure 1b, in closed form."""
    from smoothout.analysis.theory import figure_one  # noqa: PLC0415

    figure = figure_one()
    surfaces.toy_copies(axes, figure.w, figure.copies, figure.mean, figure.expectation)


def spectrum(axes: Any, records: curves.NamedRecords) -> None:
    """Draw spectral densities with the largest eigenvalues."""
    from smoothout.analysis.hessian import Spectrum  # noqa: PLC0415

    spectra.spectrum(axes, records, lambda recorded, grid, width: Spectrum(**recorded).density(grid, width))


def epoch_seconds_over_workers(axes: Any, records: curves.NamedRecords, examples: int, batches: Sequence[int]) -> None:
    """Draw the seconds per epoch over the number of workers: as the model predicts them, and as measured."""
    [(_, record)] = records
    worker, ghost, measured_batch = Worker(**record.outcome["worker"]), record.settings["ghost"], record.labels["batch"]
    predicted = {
        batch: [examples / batch * worker.update(batch // ghost, workers) for workers in scaling.WORKERS]
        for batch in (*batches, measured_batch)  # the measured one is last: neighboring panels have the same colors
    }
    updates = examples / measured_batch
    measured = {
        f"{label}, batch {measured_batch:,}": {
            int(workers): updates * seconds[how] for workers, seconds in record.outcome["update"].items()
        }
        for how, label in (("measured", "measured"), ("free", "on free cores"))
    }
    scaling.epochs(axes, predicted, measured, measured_batch)
    axes.set_title(f"measured on {record.environment['cores']} cores under a load of {record.outcome['load']:.1f}")


def iterations_over_workers(axes: Any, records: curves.NamedRecords, small: int, large: int) -> None:
    """Draw how many iterations of a large batch are worth one of a small batch, over the number of workers."""
    [(_, record)] = records
    worker, ghosts = Worker(**record.outcome["worker"]), small // record.settings["ghost"]
    ratios = [break_even(small, large, worker.efficiency(ghosts, workers)) for workers in scaling.WORKERS]
    scaling.iterations(axes, small, large, ratios)


def _scaling_settings() -> type[Any]:
    from smoothout.benchmark.scaling import Scaling  # noqa: PLC0415

    return Scaling


class SplitChoice(StrEnum):
    """The split whose curves a panel draws."""

    train = "train"
    test = "test"


class Space(StrEnum):
    """The searches that a panel draws: those in the full space, or those in a subspace."""

    full = "full"
    subspace = "subspace"


# What a panel may choose, by kind.


@dataclass(frozen=True)
class NoOptions:
    """Nothing."""


@dataclass(frozen=True)
class CurveOptions:
    """Which curves to draw."""

    split: SplitChoice | None = field(default=None, metadata={"recorded_as": "part"})  # None draws both


@dataclass(frozen=True)
class SearchOptions:
    """Which searches to draw."""

    space: Space = Space.full


@dataclass(frozen=True)
class EpochOptions:
    """An epoch of ``examples``, in each of the ``batches``."""

    examples: int
    batches: tuple[int, ...]


@dataclass(frozen=True)
class TrendOptions:
    """What is drawn over which axis."""

    quantity: Quantity
    axis: Axis = Axis.lr_over_batch


@dataclass(frozen=True)
class LearningCurveOptions:
    """Whether to draw distances between curves, and what the held-out images are called."""

    distances: bool = True
    held_out: str = "validation"


@dataclass(frozen=True)
class IterationOptions:
    """The two batch sizes."""

    small: int
    large: int


@dataclass(frozen=True)
class PanelKind:
    """A kind of panel.

    Args:
        analysis: settings of what is measured on the runs, or on the machine, as a class or a function that imports
            it; None if nothing is measured.
    """

    draw: Callable[..., None]  # draws named records on axes
    analysis: type[Any] | Callable[[], type[Any]] | None = None
    needs: tuple[str, ...] = ()  # settings of the analysis that must not be 0, because there would be nothing to draw
    options: type[Any] = NoOptions  # what a panel may choose of ``draw``, as a dataclass
    is_3d: bool = False  # whether the axes are three-dimensional
    draws_trainings: bool = False  # whether the records of the runs are drawn, too
    draws_sources: bool = False  # whether the records of the trainings that the runs start from are drawn, too
    shared_axis: str | None = None  # the axis (y or z) whose limits all panels of the kind share

    @property
    def settings(self) -> type[Any] | None:
        """The class of the analysis's settings."""
        return self.analysis if self.analysis is None or isinstance(self.analysis, type) else self.analysis()

    @property
    def runs(self) -> int:
        """How many trained runs a job takes; 0 if the panel has no runs."""
        return self.settings.runs if self.settings else int(self.draws_trainings)


PANEL_KINDS = {
    "course": PanelKind(curves.training_curve, RunningStatistics, draws_trainings=True, shared_axis="y"),
    "line": PanelKind(curves.line, Interpolation, options=CurveOptions),
    "noise": PanelKind(curves.noise, NoiseCurve, options=CurveOptions),
    "landscape": PanelKind(curves.landscape, Landscape, options=CurveOptions),
    "contours": PanelKind(surfaces.contours, Plane),
    "surface": PanelKind(surfaces.surface, Plane, is_3d=True, shared_axis="z"),
    "atlas": PanelKind(sharpness.search_comparison, SearchComparison, options=SearchOptions),
    "adaptive": PanelKind(sharpness.adaptive, AdaptiveSharpnessJob),
    "spectrum": PanelKind(spectrum, Hessian, needs=("spectrum_probes",)),
    "sharpness_over_loss": PanelKind(sharpness.over_loss, Sharpness),
    "sharpness_over_batch": PanelKind(sharpness.over_batch, Sharpness, draws_trainings=True),
    "sharpness_over_start": PanelKind(sharpness.over_start, Sharpness, draws_trainings=True, draws_sources=True),
    "trend": PanelKind(trends.scatter, Hessian, draws_trainings=True, options=TrendOptions),
    "learning_curves": PanelKind(trends.learning_curves, draws_trainings=True, options=LearningCurveOptions),
    "epoch_over_workers": PanelKind(epoch_seconds_over_workers, _scaling_settings, options=EpochOptions),
    "iterations_over_workers": PanelKind(iterations_over_workers, _scaling_settings, options=IterationOptions),
    "toy_loss": PanelKind(toy_loss),
    "toy_copies": PanelKind(toy_copies),
}
