"""A table: the jobs that it needs, and its cells rendered from their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from smoothout.common.enums import check_seeds, coerce_enum_fields
from smoothout.common.errors import ConfigError, config_errors
from smoothout.config.compose import ConfigFolders, compose_config, search_path
from smoothout.config.experiment import Experiment, TrainingConfig, training_config
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import check_data, describe_retrained, find_record
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.cells import CellSpec, MethodRuns, jobs_by_row, rendered
from smoothout.reproduction.choose_strength import StrengthSearch
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.published import PublishedNumbers
from smoothout.reproduction.schema import RowConfig, read_table
from smoothout.reproduction.searches import best_methods, find_choices, notes_of, searches_of
from smoothout.results.per_image import compare_right, has_right
from smoothout.results.records import Record
from smoothout.results.tables import Block, Table, difference

EPOCHS = (
    "The best epoch, which version 1 of the SmoothOut paper reports, is selected on the test split itself, so its"
    " accuracy is biased upwards. The median over the last quarter of the epochs selects none."
)
HELD_OUT = (
    "Each training holds out training images, which replace the test split. The best epoch is selected on them, so"
    " held-out accuracy is biased upwards. Accuracy on the test split is of that epoch's weights; the test split has"
    " selected nothing."
)
RETRAINED = (
    "Weights are not kept with the records. Some trainings were repeated before their weights were analyzed, on another"
    " processor, which rounds differently. What is measured on weights (sharpness, recalibrated accuracy) is of the new"
    " ones, all other numbers are of the first ones. A cell counts those of its seeds that are not known to agree with"
    " the training's record (loss to 0.01%, accuracy to one image). Runs:"
)
RECALIBRATED = (
    "BatchNorm recalibrated: the same weights, with BatchNorm's running statistics computed again over the training"
    " images without augmentation. (A network that was trained on augmented images thus gets statistics of other"
    " images, and may do worse.) The statistics that training leaves behind lag behind fast-moving weights, most of all"
    " when an epoch has only a few updates, and SmoothOut collects them under noise."
)


@dataclass(frozen=True)
class RunSelection:
    """Which runs a table or a figure is made of: a protocol, a profile, a precision, and seeds."""

    protocol: str = "authors_code"
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_seeds(self.seeds)

    def overrides(self) -> list[str]:
        """All but the seed, as overrides of configs/train.yaml."""
        chosen = [f"protocol={self.protocol}", f"profile={self.profile}"]
        return chosen if self.precision is Precision.float32 else [*chosen, f"precision={self.precision}"]


def recorded_seeds(jobs: Callable[[set[int]], Iterable[Job]], runtime: Runtime) -> set[int]:
    """The seeds with a record of one of their ``jobs``, among the seeds of all recorded trainings."""
    trained = {int(record.labels["seed"]) for record in runtime.records.iter_readable(Experiment.kind)}
    known = [job for job in jobs(trained) if isinstance(job.training_job.settings, Experiment)] if trained else []
    return {
        job.training_job.settings.seed
        for job in known
        if any(runtime.records.get(job.kind, digest) for digest in job.valid_digests)
    }


class TablePlan:
    """A table of configs/table/: the jobs behind its cells. Raises ConfigError if it is invalid.

    Args:
        table: its config, composed.
        selection: the runs that it is made of.
        configs: the folders of configs; ``published`` is that of the papers' numbers.
    """

    def __init__(self, table: dict[str, Any], selection: RunSelection, configs: ConfigFolders, published: Path) -> None:
        self.config = read_table(table, published)
        self.scope, self._configs = selection, configs
        self._published = PublishedNumbers(self.config, published)
        self.searches = searches_of(self.config, self._settings)  # by method whose strength is chosen
        self._choices: dict[str, Record] = {}  # what they chose, see `with_choice`
        self.rows = self.config.rows
        self._plan_runs()

    def of_rows(self, parts: Sequence[str]) -> TablePlan:
        """The same table with the rows whose name contains one of the texts ``parts``. Raises ConfigError for none."""
        plan = copy(self)  # nothing is composed again
        plan.rows = tuple(row for row in self.rows if any(part in row.name for part in parts))
        if not plan.rows:
            raise ConfigError(f"rows: none of these has {list(parts)}: {'; '.join(row.name for row in self.rows)}")
        names = {row.name for row in plan.rows}
        plan.runs = {(row, method): runs for (row, method), runs in self.runs.items() if row in names}
        plan.cells = plan._cells()
        if all(row.best_methods is None for row in plan.rows):  # else every search decides which methods are shown
            shown = set().union(*map(self.config.methods_of, plan.rows))
            plan.searches = {name: search for name, search in self.searches.items() if name in shown}
        return plan

    def _plan_runs(self) -> None:
        """Compose the trainings. Methods whose strength is not chosen yet have none."""
        chosen = {name: float(record.outcome["chosen"]) for name, record in self._choices.items()}
        self.methods = {
            name: method.with_strength(chosen[name]) if method.is_chosen else method
            for name, method in self.config.methods.items()
            if name in chosen or not method.is_chosen
        }
        self.runs = {
            (row.name, method): self._runs(row, method, overrides)
            for row in self.rows
            for method, overrides in self._methods(row).items()
        }
        self.cells = self._cells()

    def with_choice(self, runtime: Runtime) -> TablePlan:
        """The same table with the chosen strengths; unchanged if there is no choice, or none is recorded."""
        choices = find_choices(self.searches, runtime)
        if not choices:
            return self
        plan = copy(self)
        plan._choices = choices
        plan._plan_runs()
        return plan

    def _cells(self) -> list[CellSpec]:
        return [self.cell(row, method, metric) for (row, method), metric in product(self.runs, self.config.metrics)]

    def cell(self, row: str, method: str, metric: str) -> CellSpec:
        """The number ``metric`` of a row and method, whether the table shows it or not; it may wait for a choice.

        Raises KeyError for others.
        """
        if (row, method) not in self.runs and row in {one.name for one in self.rows} and method in self.searches:
            return CellSpec(row, method, metric, {}, None, "", None)
        runs = self.runs[row, method]
        [settings] = [candidate for candidate in self.rows if candidate.name == row]
        return runs.cell(metric, self._published.of_metric(settings, method, metric))

    def jobs(self) -> list[Job]:
        """Every job that the table needs, once, trainings before the analyses of their weights."""
        return with_dependencies(job for cell in self.cells for job in cell.jobs.values())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By row: its jobs, with the config's estimate of the seconds per epoch."""
        return jobs_by_row((cell.row, cell) for cell in self.cells)

    def _methods(self, row: RowConfig) -> dict[str, tuple[str, ...]]:
        """The row's methods whose strength is known, each with the overrides that the row adds."""
        if row.best_methods is None:
            methods = self.config.methods_of(row)
            return {name: overrides for name, overrides in methods.items() if name in self.methods}
        best = best_methods(self.searches, self._choices, row.best_methods)
        return {name: () for name in self.methods if name == self._baseline or name in best}

    @property
    def _baseline(self) -> str:
        """The method that improvements are measured against."""
        return next(name for name in self.methods if name != self.config.small_batch_method)

    def _runs(self, row: RowConfig, method: str, added: Sequence[str]) -> MethodRuns:
        given = _last(row.overrides, self.methods[method].overrides, added, self.scope.overrides())
        shown = (*given, *search_path(self._configs))
        with config_errors(f"table {self.config.name}: {row.name}, {method}: ", of=ConfigError):
            settings = self._settings(given)
            settings.experiment()  # its errors are about this row, too
        return MethodRuns(row.name, method, settings, self.scope.seeds, shown)

    def _settings(self, overrides: Sequence[str]) -> TrainingConfig:
        return training_config(compose_config(self._configs, "train", _last(overrides, self.scope.overrides())))

    @property
    def unique_searches(self) -> list[StrengthSearch]:
        """The searches, each once."""
        return list(dict.fromkeys(self.searches.values()))

    def with_recorded_seeds(self, runtime: Runtime) -> TablePlan:
        """The same table for all seeds with a record for its rows; unchanged if there are none."""
        seeds = recorded_seeds(lambda trained: self._with_seeds(trained).jobs(), runtime)
        return self._with_seeds(seeds) if seeds else self

    def _with_seeds(self, seeds: set[int]) -> TablePlan:
        plan = copy(self)  # nothing is composed again
        plan.scope = replace(self.scope, seeds=tuple(sorted(seeds)))
        plan.runs = {key: replace(runs, seeds=plan.scope.seeds) for key, runs in self.runs.items()}
        plan.cells = plan._cells()
        return plan

    def render(self, runtime: Runtime) -> Table:
        """The table, rendered from its records. Raises RecordError."""
        check_data(self.jobs(), runtime)
        # Differences are computed seed by seed from the cells, so these come first.
        costs = RuntimeEstimator(runtime)
        cells = {(cell.row, cell.column): rendered(cell, runtime, costs) for cell in self.cells}
        compared = [name for name in self.config.metrics if METRICS[name].differences]
        for (row, (quantity, method, better, worse)), metric in product(self._differences_by_row(), compared):
            column = _difference_column(method, quantity, metric)
            of_paper = metric == self.config.accuracy
            published = self._published.of_quantity(row, method, quantity) if of_paper else None
            one, other = (cells[row.name, f"{name} {metric}"] for name in (better, worse))
            cells[row.name, column] = difference(one, other, published.value if published else None, column)
        recalibrated = any(metric.endswith("recalibrated") for metric in self.config.metrics)
        return Table(
            name=self.config.name,
            title=self.config.title,
            protocol=self.scope.protocol,
            profile=self.scope.profile,
            precision=self.scope.precision.value,
            seeds=self.scope.seeds,
            cells=list(cells.values()),
            blocks=list(self._blocks()),
            notes=[
                *self.config.notes,
                *self.choice_notes,
                *([HELD_OUT if self.holds_out else EPOCHS] if "best" in self.config.metrics else []),
                *([RECALIBRATED] if recalibrated else []),
                *self._retrained(runtime),
            ],
            image_by_image=list(self._image_by_image(runtime)),
            first_trained=self._first_trained(runtime, costs),
        )

    @property
    def holds_out(self) -> bool:
        """Whether trainings are tested on held-out training images."""
        return any(runs.settings.data.validation_size for runs in self.runs.values())

    @property
    def choice_notes(self) -> list[str]:
        """What the searches for strengths chose, or that they have no record yet; empty without a search."""
        return notes_of(self.searches, self._choices, {name: m.title for name, m in self.config.methods.items()})

    def _image_by_image(self, runtime: Runtime) -> Iterator[dict[str, str]]:
        """A line for each difference of the best epochs whose trainings' records say which images are right."""
        if self.config.accuracy != "best" or self.holds_out:
            return
        for row, (_, _, *compared) in self._differences_by_row():
            one, other = (self._runs_with_images(row.name, method, runtime) for method in compared)
            if seeds := sorted(one.keys() & other.keys()):
                titles = [self.methods[method].title for method in compared]
                line = compare_right(*([side[seed] for seed in seeds] for side in (one, other)))
                yield {"row": row.name, "first - second": " - ".join(titles), **line}

    def _runs_with_images(self, row: str, method: str, runtime: Runtime) -> dict[int, Record]:
        """The records of a row's trainings by seed, of those that did not diverge and say which images are right."""
        records = self.cell(row, method, "best").values(runtime)
        return {
            seed: record
            for seed, record in records.records.items()
            if seed not in records.diverged and has_right(record)
        }

    def _first_trained(self, runtime: Runtime, costs: RuntimeEstimator) -> dict[str, list[float | None]]:
        """By row, the hours of the missing trainings that no cell shows, but that missing analyses need."""
        shown = {job.digest for cell in self.cells for job in cell.jobs.values()}
        rows: dict[str, dict[str, float | None]] = {}
        for cell in self.cells:
            missing = (job for job in cell.jobs.values() if find_record(job, runtime) is None)
            for run in with_dependencies(missing):
                if not run.dependencies and run.digest not in shown and find_record(run, runtime) is None:
                    rows.setdefault(cell.row, {})[run.digest] = costs.hours(run, cell.epoch_seconds)
        return {row: list(hours.values()) for row, hours in rows.items()}

    def _retrained(self, runtime: Runtime) -> list[str]:
        """A note, if analyses saw weights that were trained again."""
        found = describe_retrained(self.jobs(), runtime)
        return [f"{RETRAINED} {'; '.join(found)}."] if found else []

    def _differences(self) -> list[tuple[str, str, str, str]]:
        """(quantity, method, better, worse): improvements over the baseline, and gaps to the small batch."""
        methods, small, baseline = self.methods, self.config.small_batch_method, self._baseline
        improvements = [("improvement", name, name, baseline) for name in methods if name not in (baseline, small)]
        gaps = [("gap", name, small, name) for name in methods if small and name != small]
        return improvements + gaps

    def _differences_by_row(self) -> Iterator[tuple[RowConfig, tuple[str, str, str, str]]]:
        """The rows with their differences: those between two methods that the row has."""
        for row, compared in product(self.rows, self._differences()):
            if all((row.name, method) in self.runs for method in compared[2:]):
                yield row, compared

    def _blocks(self) -> Iterator[Block]:
        """A block for each metric; the gaps come between accuracies and metrics that are compared by ratio."""
        titles = {name: method.title for name, method in self.methods.items()}
        headings: dict[str, list[tuple[str, str]]] = {"improvement": [], "gap": []}
        for quantity, method, better, worse in self._differences():
            headings[quantity].append((f"{titles[better]} - {titles[worse]}", method))
        gaps = self._gaps(headings["gap"])
        for metric in sorted(self.config.metrics, key=lambda name: METRICS[name].ratio_scale):  # a stable sort
            settings = METRICS[metric]
            if settings.ratio_scale:
                yield from gaps
                gaps = []
            columns = {title: f"{method} {metric}" for method, title in titles.items()}
            if settings.differences:
                columns |= {
                    title: _difference_column(method, "improvement", metric)
                    for title, method in headings["improvement"]
                }
            heading = settings.heading
            if self.holds_out:
                heading = heading.replace("Test accuracy", "Held-out accuracy")
            yield Block(heading, columns, settings.ratio_scale and self.config.geometric)
        yield from gaps

    def _gaps(self, headings: Sequence[tuple[str, str]]) -> list[Block]:
        """The block of the gaps with these (title, method), or none."""
        accuracy = self.config.accuracy
        if not headings or accuracy is None:
            return []
        of = "best epochs" if accuracy == "best" else METRICS[accuracy].title
        columns = {title: _difference_column(method, "gap", accuracy) for title, method in headings}
        return [Block(f"Generalization gap to the small batch, {of}", columns)]


def _last(*overrides: Sequence[str]) -> list[str]:
    """All ``overrides``; of several of the same setting, the last one counts."""
    return list({override.partition("=")[0]: override for override in chain(*overrides)}.values())


def _difference_column(method: str, quantity: str, metric: str) -> str:
    return f"{method} {quantity}" if metric == "best" else f"{method} {quantity} {metric}"
