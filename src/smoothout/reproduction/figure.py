"""A picture as the jobs that it needs: one of configs/figure/, panel by panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from smoothout.analysis.hessian import Spectrum
from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.performance_model import Worker, break_even
from smoothout.analysis.theory import figure_one
from smoothout.benchmark.scaling import Scaling
from smoothout.common.environment import device_of
from smoothout.common.errors import ConfigError
from smoothout.config.build import pick_settings, validate
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import find_record, runs_with_other_weights
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import epoch_seconds
from smoothout.reproduction.schema import check_figure
from smoothout.reproduction.table import RunSelection, recorded_seeds
from smoothout.results.figures import curves, scaling, sharpness, spectra, surfaces
from smoothout.results.figures import panels as sheet
from smoothout.results.records import Record
from smoothout.results.tables import stem


def toy_loss(axes: Any, records: curves.NamedRecords) -> None:
    """Figure 1a; it needs no records."""
    figure = figure_one()
    surfaces.toy_loss(axes, figure.w, figure.loss)


def toy_copies(axes: Any, records: curves.NamedRecords) -> None:
    """Figure 1b; it needs no records."""
    figure = figure_one()
    surfaces.toy_copies(axes, figure.w, figure.copies, figure.mean, figure.expectation)


def spectrum(axes: Any, records: curves.NamedRecords) -> None:
    """Spectral densities, with the largest eigenvalues."""
    spectra.spectrum(axes, records, lambda found, grid, width: Spectrum(**found).density(grid, width))


def epoch_seconds_over_workers(axes: Any, records: curves.NamedRecords, examples: int, batches: Sequence[int]) -> None:
    """Seconds of an epoch on more and more workers: as the model has it, and as measured."""
    [(_, record)] = records
    worker, ghost = Worker(**record.outcome["worker"]), record.settings["ghost"]
    predicted = {
        batch: [examples / batch * worker.update(batch // ghost, workers) for workers in scaling.WORKERS]
        for batch in (*batches, record.labels["batch"])  # so a panel's colours are those of its neighbours
    }
    epoch = examples / record.labels["batch"]
    found = {
        f"{words}, batch {record.labels['batch']:,}": {
            int(p): epoch * u[how] for p, u in record.outcome["update"].items()
        }
        for how, words in (("measured", "measured"), ("free", "on free cores"))
    }
    scaling.epochs(axes, predicted, found, record.labels["batch"])
    axes.set_title(f"measured on {record.environment['cores']} cores under a load of {record.outcome['load']:.1f}")


def iterations_over_workers(axes: Any, records: curves.NamedRecords, small: int, large: int) -> None:
    """How many iterations a large batch may take for each of a small one, on more and more workers."""
    [(_, record)] = records
    worker, ghosts = Worker(**record.outcome["worker"]), small // record.settings["ghost"]
    scaling.iterations(
        axes, small, large, [break_even(small, large, worker.efficiency(ghosts, p)) for p in scaling.WORKERS]
    )


class SplitChoice(StrEnum):
    """The split whose curves a panel draws."""

    train = "train"
    test = "test"


class Space(StrEnum):
    """The searches that a panel draws: those in the full space, or in a subspace."""

    full = "full"
    subspace = "subspace"


@dataclass(frozen=True)
class PanelKind:
    """A kind of panel.

    Attributes:
        draw: draws named records on axes.
        analysis: what is measured on the runs, or on the machine; None where nothing is.
        needs: settings of the analysis that must not be 0: without them there is nothing to draw.
        options: what of ``draw`` a panel may choose, each with its type.
        solid: whether the axes are those of a space.
        trainings: whether the runs' own records are drawn too.
        shares: the axis whose limits all panels of the kind have in common, for they are compared.
    """

    draw: Callable[..., None]
    analysis: type[Any] | None = None
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    is_3d: bool = False
    draws_trainings: bool = False
    shared_axis: str | None = None


PANEL_KINDS = {
    "course": PanelKind(curves.training_curve, RunningStatistics, draws_trainings=True, shared_axis="y"),
    "line": PanelKind(curves.line, Interpolation, options={"part": SplitChoice}),
    "noise": PanelKind(curves.noise, NoiseCurve, options={"part": SplitChoice}),
    "landscape": PanelKind(curves.landscape, Landscape, options={"part": SplitChoice}),
    "contours": PanelKind(surfaces.contours, Plane),
    "surface": PanelKind(surfaces.surface, Plane, is_3d=True, shared_axis="z"),
    "atlas": PanelKind(sharpness.search_comparison, SearchComparison, options={"space": Space}),
    "adaptive": PanelKind(sharpness.adaptive, AdaptiveSharpnessJob),
    "spectrum": PanelKind(spectrum, Hessian, needs=("spectrum_probes",)),
    "sharpness_over_loss": PanelKind(sharpness.over_loss, Sharpness),
    "sharpness_over_batch": PanelKind(sharpness.over_batch, Sharpness, draws_trainings=True),
    "epoch_over_workers": PanelKind(
        epoch_seconds_over_workers, Scaling, options={"examples": int, "batches": tuple[int, ...]}
    ),
    "iterations_over_workers": PanelKind(iterations_over_workers, Scaling, options={"small": int, "large": int}),
    "toy_loss": PanelKind(toy_loss),
    "toy_copies": PanelKind(toy_copies),
}
KEYS = ("kind", "title", "overrides", "runs", "over", "analysis", "draw")


@dataclass(frozen=True)
class PanelPlan:
    """A panel's title, its kind, its jobs with their names in the legend, and what it chose of ``draw``."""

    title: str
    kind: PanelKind
    jobs: tuple[tuple[str, Job], ...]
    options: dict[str, Any]

    def records(self, runtime: Runtime) -> tuple[list[tuple[str, Record]], list[str]]:
        """The present records by name, and the names of the missing ones."""
        found = [(name, job, find_record(job, runtime)) for name, job in self.jobs]
        present = [(name, record) for name, _, record in found if record is not None]
        return present, [job.name for _, job, record in found if record is None]

    def drawn(self, runtime: Runtime, places: dict[str, int]) -> sheet.Panel:
        """The panel as it is drawn from the present records; ``places`` are those of all runs in the picture."""
        present, missing = self.records(runtime)
        records = [(curves.RunLabel(name, places.get(name)), record) for name, record in present]
        draw = partial(self.kind.draw, records=records, **self.options) if present or not self.jobs else None
        return sheet.Panel(self.title, draw, len(missing), self.kind.is_3d, self.kind.shared_axis)


class FigurePlan:
    """One of configs/figure/. Raises SettingsError where it does not compose.

    Its runs have ``places`` by their names: a run looks the same in every panel.
    """

    def __init__(self, figure: dict[str, Any], scope: RunSelection, configs: Path) -> None:
        check_figure(figure)
        self.figure, self.scope, self._configs = figure, scope, configs
        self._known = dict[tuple[tuple[str, ...], int], Job]()  # trainings by their overrides and seed
        self._configured = dict[str, dict[str, Any]]()  # their configs by digest
        self.panels = [self._panel(panel) for panel in figure["panels"]]
        names = dict.fromkeys(name for panel in figure["panels"] for name in panel.get("runs", {}))
        self.places = {name: runtime for runtime, name in enumerate(names)}

    def with_recorded_seeds(self, runtime: Runtime) -> FigurePlan:
        """The same for every seed that has a record of what is drawn; as it is where none has."""
        there = recorded_seeds(lambda seeds: self._of_seeds(seeds).shown(), runtime)
        return self._of_seeds(there) if there else self

    def _of_seeds(self, seeds: set[int]) -> FigurePlan:
        return FigurePlan(self.figure, replace(self.scope, seeds=tuple(sorted(seeds))), self._configs)

    def shown(self) -> list[Job]:
        """The jobs whose records are drawn."""
        return [job for panel in self.panels for _, job in panel.jobs]

    def jobs(self) -> list[Job]:
        """Every job that the picture needs, each once, trainings first."""
        return with_dependencies(self.shown())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """The picture's jobs, with the configs' estimates of the seconds that an epoch takes."""
        configs = {job: self._configured.get((job.dependencies or (job,))[0].digest) for job in self.jobs()}
        jobs = {job: epoch_seconds(config) if config else None for job, config in configs.items()}
        return {f"figure {self.figure['name']}": jobs}

    def missing(self, runtime: Runtime) -> list[str]:
        """The names of the records that the picture lacks."""
        return list(dict.fromkeys(name for panel in self.panels for name in panel.records(runtime)[1]))

    def save(self, runtime: Runtime, folder: Path) -> list[Path]:
        """Draw it from the present records; nothing is drawn while no panel has any."""
        panels = [panel.drawn(runtime, self.places) for panel in self.panels]
        scope, name = self.scope, self.figure["name"]
        if any(job.dependencies for job in self.jobs()):
            name = stem(name, scope.protocol, scope.profile, scope.precision)
        return sheet.save(self.figure["title"], panels, self._note(runtime), folder / name, self.figure.get("columns"))

    def _note(self, runtime: Runtime) -> str:
        """What the picture was made of."""
        jobs, scope = self.jobs(), self.scope
        if not jobs:
            return "in closed form; no network is trained"
        if not any(job.dependencies for job in jobs):
            present = [record for job in jobs if (record := find_record(job, runtime))]
            machines = {f"{device_of(r.environment)}, torch {r.environment['versions']['torch']}" for r in present}
            return f"measured on {'; '.join(sorted(machines))}; no network is trained"
        seeds = f"seed{'s' if len(scope.seeds) > 1 else ''} {', '.join(map(str, scope.seeds))}"
        note = f"protocol {scope.protocol}, profile {scope.profile}, {scope.precision}, {seeds}"
        if again := runs_with_other_weights(jobs, runtime):
            note += f"; trained again on another machine, so other weights than recorded: {', '.join(again)}"
        return note

    def _panel(self, given: dict[str, Any]) -> PanelPlan:
        named = f"figure {self.figure['name']}"
        if given.get("kind") not in PANEL_KINDS:
            raise ConfigError(f"{named}: kind {given.get('kind')!r} is not one of {', '.join(PANEL_KINDS)}")
        kind, options = PANEL_KINDS[given["kind"]], given.get("draw", {})
        named, allowed = f"{named}: {given['kind']}", [*KEYS, *(f"draw.{option}" for option in kind.options)]
        for key in [*given, *(f"draw.{option}" for option in options)]:
            if key not in allowed:
                raise ConfigError(f"{named}: unknown key {key}; allowed: {', '.join(allowed)}")
        pick_settings(options, f"{named}: draw.", **{option: kind.options[option] for option in options})
        needed, runs = (kind.analysis.runs if kind.analysis else 0), len(given.get("runs", {}))
        if "title" not in given or runs < needed or (needed == 2 and runs > 2):
            raise ConfigError(f"{named}: needs a title and {needed} runs, not {runs}")
        return PanelPlan(given["title"], kind, tuple(dict.fromkeys(self._jobs(kind, given))), options)

    def _jobs(self, kind: PanelKind, given: dict[str, Any]) -> Iterator[tuple[str, Job]]:
        """The panel's jobs by name: for each seed one over all its runs, or one for each run and point of ``over``."""
        if kind.analysis is None:
            return
        if not kind.analysis.runs:
            named = f"figure {self.figure['name']}: {given['kind']}: analysis."
            yield given["title"], Job(validate(kind.analysis, given.get("analysis", {}), named))
            return
        base = [*self.figure.get("overrides", []), *given.get("overrides", [])]
        points = [[f"{key}={value}"] for key, values in given.get("over", {}).items() for value in values] or [[]]
        for seed in self.scope.seeds:
            runs = [
                (name, self._run((*base, *own, *point, *self.scope.overrides()), seed))
                for name, own in given["runs"].items()
                for point in points
            ]
            if kind.analysis.runs == 1:
                for name, run in runs:
                    yield from [(name, run)] if kind.draws_trainings else []
                    yield name, Job(self._analysis(given, run), (run,))
            else:
                ways = ", ".join(f"{alpha} is {name}" for alpha, (name, _) in enumerate(runs))
                yield ways, Job(self._analysis(given, runs[0][1]), tuple(run for _, run in runs))

    def _run(self, overrides: tuple[str, ...], seed: int) -> Job:
        """The training that ``overrides`` of train.yaml describe."""
        if (overrides, seed) not in self._known:
            config = compose_config(self._configs, "train", overrides)
            job = self._known[overrides, seed] = Job(build_experiment(config | {"seed": seed}))
            self._configured[job.digest] = config
        return self._known[overrides, seed]

    def _analysis(self, given: dict[str, Any], run: Job) -> Any:
        """The panel's settings of its analysis; of so many examples as the profile says."""
        kind = PANEL_KINDS[given["kind"]]
        assert kind.analysis is not None
        examples = self._configured[run.digest]["profile"]["analysis_examples"]
        chosen = {"examples": examples, **given.get("analysis", {})}
        named = f"figure {self.figure['name']}: {given['kind']}: analysis."
        settings = validate(kind.analysis, chosen, named)
        for name in kind.needs:
            if not getattr(settings, name):
                raise ConfigError(f"{named}{name}: must be at least 1, or there is nothing to draw")
        return settings
