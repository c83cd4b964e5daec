"""Reproduce one of the papers' tables, or figures: show the plan, make what is missing, render from records."""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.common.errors import ConfigError
from smoothout.common.progress import print_line
from smoothout.config.build import build, pick_settings
from smoothout.jobs import slurm
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection, TablePlan

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


@hydra.main(config_path="../configs", config_name="reproduce", version_base="1.3")
def main(config: DictConfig) -> None:
    """Make and render the table and the picture that ``config`` names."""
    with app.program_session(config, hands_over=True) as (settings, place):
        given: Any = settings.get("scope")
        any_seed = isinstance(given, dict) and given.get("seeds", ()) is None
        scope = build({**given, "seeds": [0]} if any_seed else given, "scope", RunSelection)
        table, figure = settings.get("table"), settings.get("figure")
        if not table and not figure:
            raise ConfigError("table, figure: one of them must be named; both are none")
        wish = pick_settings(settings, rows=tuple[str, ...] | None, run=bool, save=bool)
        published = ROOT / "results" / "published"
        reproduction = TablePlan(table, scope, CONFIGS, published) if table else None
        asked = TablePlan(table, scope, CONFIGS, published, wish.rows) if table and wish.rows else reproduction
        picture = FigurePlan(figure, scope, CONFIGS) if figure else None
        wanted = [one for one in (asked, picture) if one]
        lost = plan.plan_and_run(wanted, place, slurm.job_runner(HydraConfig.get(), settings)) if wish.run else None
        results = Path(settings["folders"]["results"])
        written = []
        if reproduction:
            rendered = (reproduction.with_recorded_seeds(place) if any_seed else reproduction).render(place)
            written += rendered.save(results / "tables") if wish.save else []
            plan.print_table(rendered, wish.rows)
        if picture and wish.save:
            shown = picture.with_recorded_seeds(place) if any_seed else picture
            drawn = shown.save(place, results / "figures")
            written += drawn
            for name in shown.missing(place):
                print_line(f"figure {picture.config.name}: not run: {name}")
            if not drawn:
                print_line(f"figure {picture.config.name} lacks records of its runs: not drawn")
        for path in written:
            print_line(f"written: {path}")
        if lost:
            raise lost


if __name__ == "__main__":
    app.run(main)
