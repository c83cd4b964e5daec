"""A figure as the jobs that it needs: a config of configs/figure/, panel by panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from smoothout.common.environment import device_of
from smoothout.common.errors import ConfigError, config_errors
from smoothout.config.build import validate
from smoothout.config.compose import ConfigFolders, compose_config
from smoothout.config.experiment import TrainingConfig, training_config
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import check_data, describe_retrained, find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.panel_kinds import PANEL_KINDS, PanelKind
from smoothout.reproduction.schema import FigureConfig, PanelConfig
from smoothout.reproduction.table import RunSelection, recorded_seeds
from smoothout.results.figures import curves, panels
from smoothout.results.records import Record
from smoothout.results.tables import stem


@dataclass(frozen=True)
class PanelPlan:
    """A panel with its jobs, each with its name in the legend, and the ``options`` of its kind."""

    title: str
    kind: PanelKind
    jobs: tuple[tuple[str, Job], ...]
    options: Any

    def records(self, runtime: Runtime) -> tuple[list[tuple[str, Record]], list[str]]:
        """The records that exist, by name in the legend, and the names of the missing ones."""
        records = [(name, job, find_record(job, runtime)) for name, job in self.jobs]
        present = [(name, record) for name, _, record in records if record is not None]
        return present, [job.name for _, job, record in records if record is None]

    def drawn(self, runtime: Runtime, places: dict[str, int]) -> panels.Panel:
        """The panel drawn from its records; ``places`` are those of all runs of the figure."""
        present, missing = self.records(runtime)
        records = [(curves.RunLabel(name, places.get(name)), record) for name, record in present]
        draw = partial(self.kind.draw, records=records, **vars(self.options)) if present or not self.jobs else None
        return panels.Panel(self.title, draw, len(missing), self.kind.is_3d, self.kind.shared_axis)


class FigurePlan:
    """A figure of configs/figure/.

    A run has its place among the names of all panels (``places``), so that it looks the same in each of them. Raises
    ConfigError if the config is invalid.
    """

    def __init__(self, figure: FigureConfig | dict[str, Any], selection: RunSelection, configs: ConfigFolders) -> None:
        self.config = figure if isinstance(figure, FigureConfig) else validate(FigureConfig, figure, "figure.")
        self.scope, self._configs = selection, configs
        self._composed = dict[tuple[str, ...], TrainingConfig]()  # by the overrides
        self._settings_of = dict[str, TrainingConfig]()  # the same by the training's digest
        self.panels = [self._panel(panel) for panel in self.config.panels]
        names = dict.fromkeys(name for panel in self.config.panels for name in panel.runs)
        self.places = {name: place for place, name in enumerate(names)}

    def with_recorded_seeds(self, runtime: Runtime) -> FigurePlan:
        """The same figure for all seeds with a record of what is drawn; unchanged if there are none."""
        seeds = recorded_seeds(lambda trained: self._with_seeds(trained).shown(), runtime)
        return self._with_seeds(seeds) if seeds else self

    def _with_seeds(self, seeds: set[int]) -> FigurePlan:
        return FigurePlan(self.config, replace(self.scope, seeds=tuple(sorted(seeds))), self._configs)

    def shown(self) -> list[Job]:
        """The jobs whose records are drawn."""
        return [job for panel in self.panels for _, job in panel.jobs]

    @property
    def name(self) -> str:
        """The name of its files."""
        return self.config.name

    def jobs(self) -> list[Job]:
        """Every job that the figure needs, once, trainings first."""
        return with_dependencies(self.shown())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """The figure's jobs, with the configs' estimates of the seconds per epoch."""
        seconds = {digest: settings.seconds_per_epoch() for digest, settings in self._settings_of.items()}
        return {f"figure {self.name}": {job: seconds.get(job.training_job.digest) for job in self.jobs()}}

    def missing(self, runtime: Runtime) -> list[str]:
        """The names of the records that the figure lacks."""
        return list(dict.fromkeys(name for panel in self.panels for name in panel.records(runtime)[1]))

    def save(self, runtime: Runtime, folder: Path) -> list[Path]:
        """Draw the records that exist and return the files; nothing is drawn if there are none. Raises RecordError."""
        check_data(self.jobs(), runtime)
        shown = [panel.drawn(runtime, self.places) for panel in self.panels]
        return panels.save(self.config.title, shown, self._note(runtime), folder / self.stem, self.config.columns)

    @property
    def stem(self) -> str:
        """The name of its files without their endings; it has no scope if no network is trained."""
        scope, name = self.scope, self.config.name
        return stem(name, scope.protocol, scope.profile, scope.precision) if self._settings_of else name

    def _note(self, runtime: Runtime) -> str:
        """What the figure was made from."""
        jobs, scope = self.jobs(), self.scope
        if not jobs:
            return "in closed form; no network is trained"
        if not self._settings_of:
            present = [record for job in jobs if (record := find_record(job, runtime))]
            machines = {f"{device_of(r.environment)}, torch {r.environment['versions']['torch']}" for r in present}
            return f"measured on {'; '.join(sorted(machines))}; no network is trained"
        seeds = f"seed{'s' if len(scope.seeds) > 1 else ''} {', '.join(map(str, scope.seeds))}"
        note = f"protocol {scope.protocol}, profile {scope.profile}, {scope.precision}, {seeds}"
        return "; ".join([note, *describe_retrained(jobs, runtime)])

    def _panel(self, panel: PanelConfig) -> PanelPlan:
        key = f"figure {self.config.name}: "
        if panel.kind not in PANEL_KINDS:
            raise ConfigError(f"{key}kind: {panel.kind!r} is not one of {', '.join(PANEL_KINDS)}")
        kind, key = PANEL_KINDS[panel.kind], f"{key}{panel.kind}: "
        needed = kind.runs
        if len(panel.runs) < needed or (needed == 2 and len(panel.runs) > 2):
            raise ConfigError(f"{key}runs: must be {needed}, not {len(panel.runs)}")
        if needed == 2 and panel.sweep:
            raise ConfigError(f"{key}sweep: must be empty for a panel of two runs, not {', '.join(panel.sweep)}")
        options = validate(kind.options, panel.options, f"{key}options.")
        return PanelPlan(panel.title, kind, tuple(dict.fromkeys(self._jobs(kind, panel, key))), options)

    def _jobs(self, kind: PanelKind, panel: PanelConfig, key: str) -> Iterator[tuple[str, Job]]:
        """The panel's jobs with their names: per seed one over both runs, or one per run and point of ``sweep``."""
        if not kind.runs:
            if kind.settings is not None:  # a measurement of the machine
                yield panel.title, Job(validate(kind.settings, panel.analysis, f"{key}analysis."))
            return
        base = [*self.config.overrides, *panel.overrides]
        points = [
            [f"{name}={value}" for name, value in zip(panel.sweep, values, strict=True)]
            for values in product(*panel.sweep.values())
        ]
        for seed in self.scope.seeds:
            runs = [
                (name, self._run((*base, *overrides, *point, *self.scope.overrides()), seed))
                for name, overrides in panel.runs.items()
                for point in points
            ]
            # An analysis of one network has a job per run; one of two networks has a job that joins both.
            if kind.runs == 1:
                for name, run in runs:
                    yield from [(f"start of {name}", source) for source in run.inputs] if kind.draws_sources else []
                    yield from [(name, run)] if kind.draws_trainings else []
                    yield from [(name, Job(self._analysis(kind, panel, run, key), (run,)))] if kind.settings else []
            else:
                ends = ", ".join(f"{alpha} is {name}" for alpha, (name, _) in enumerate(runs))
                yield ends, Job(self._analysis(kind, panel, runs[0][1], key), tuple(run for _, run in runs))

    def _run(self, overrides: tuple[str, ...], seed: int) -> Job:
        """The training with these ``overrides`` of configs/train.yaml."""
        with config_errors(f"figure {self.config.name}: ", of=ConfigError):
            if overrides not in self._composed:
                self._composed[overrides] = training_config(compose_config(self._configs, "train", overrides))
            settings = self._composed[overrides]
            job = Job(settings.experiment().with_seed(seed))
        self._settings_of[job.digest] = settings
        return job

    def _analysis(self, kind: PanelKind, panel: PanelConfig, run: Job, key: str) -> Any:
        """The settings of the panel's analysis; the profile says how many examples it uses unless the panel does."""
        assert kind.settings is not None
        examples = self._settings_of[run.digest].profile.analysis_examples
        settings = validate(kind.settings, {"examples": examples, **panel.analysis}, f"{key}analysis.")
        for name in kind.needs:
            if not getattr(settings, name):
                raise ConfigError(f"{key}analysis.{name}: must be at least 1, or there is nothing to draw")
        return settings
