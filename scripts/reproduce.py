"""Reproduce a table or a figure of the papers: show the plan, run what is missing, render from records."""

from smoothout.cli import app, plan, show  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass
from typing import Any

import hydra
from omegaconf import DictConfig

from smoothout.config.build import build
from smoothout.reproduction.table import RunSelection, TablePlan


@dataclass(frozen=True)
class ReproduceSettings:
    """The settings of configs/reproduce.yaml."""

    table: dict[str, Any] | None
    figure: dict[str, Any] | None
    scope: dict[str, Any]
    rows: tuple[str, ...] | None
    run: bool
    plan: bool
    save: bool


@hydra.main(config_path="../configs", config_name="reproduce", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run and render the table and the figure that ``config`` names."""
    with app.program_session(config, ReproduceSettings, launches_jobs=True) as (settings, runtime):
        all_seeds = settings.scope.get("seeds", ()) is None  # then seed 0 is run, and all recorded ones are shown
        scope = build(settings.scope | ({"seeds": [0]} if all_seeds else {}), "scope", RunSelection)
        configs, published = app.config_folders(), app.published_folder()
        app.check_choices({"scope.protocol": [scope.protocol], "scope.profile": [scope.profile]})
        app.check_names(table=settings.table, figure=settings.figure)
        shown = None
        if settings.table and not (settings.figure and app.is_default("table")):  # a figure alone needs no table
            shown = TablePlan(settings.table, scope, configs, published)
        requested = shown.of_rows(settings.rows) if shown and settings.rows else shown
        runner = app.job_runner(config) if settings.run and not settings.plan else None
        # Searches come first, because other trainings take the strengths that they choose.
        failure = plan.plan_and_run(requested.unique_searches, runtime, runner) if runner and requested else None
        requested, shown = (table and table.with_choice(runtime) for table in (requested, shown))
        figure = None
        if settings.figure:
            from smoothout.reproduction.figure import FigurePlan  # noqa: PLC0415 -- matplotlib, which no table needs

            figure = FigurePlan(settings.figure, scope, configs)
        targets = plan.named_targets(requested, figure, settings.rows)
        if settings.plan:
            if requested:
                plan.print_commands(requested, runtime)
            if figure:
                plan.print_plan([figure], runtime)
            return
        failure = (plan.plan_and_run(targets, runtime, runner) if runner else None) or failure
        written, save = [], settings.save and show.can_save(runtime)
        if shown:
            written += show.show_table(shown, runtime, settings.rows, all_seeds=all_seeds, save=save)
        if figure and save:
            written += show.save_figure(figure.with_recorded_seeds(runtime) if all_seeds else figure, runtime)
        show.print_written(written)
        if failure:
            raise failure


if __name__ == "__main__":
    app.run(main)
