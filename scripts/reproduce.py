"""Reproduce one of the papers' tables, or figures: show the plan, make what is missing, render from records."""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.common.errors import SettingsError
from smoothout.common.progress import say
from smoothout.config.build import build, chosen
from smoothout.jobs import slurm
from smoothout.reproduction.figure import Picture
from smoothout.reproduction.table import Reproduction, Scope

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


@hydra.main(config_path="../configs", config_name="reproduce", version_base="1.3")
def main(config: DictConfig) -> None:
    """Make and render the table and the picture that ``config`` names."""
    with app.task(config, hands_over=True) as (settings, place):
        given: Any = settings.get("scope")
        any_seed = isinstance(given, dict) and given.get("seeds", ()) is None
        scope = build({**given, "seeds": [0]} if any_seed else given, "scope", Scope)
        table, figure = settings.get("table"), settings.get("figure")
        if not table and not figure:
            raise SettingsError("table, figure: one of them must be named; both are none")
        wish = chosen(settings, rows=tuple[str, ...] | None, run=bool)
        published = ROOT / "results" / "published"
        reproduction = Reproduction(table, scope, CONFIGS, published) if table else None
        asked = Reproduction(table, scope, CONFIGS, published, wish.rows) if table and wish.rows else reproduction
        picture = Picture(figure, scope, CONFIGS) if figure else None
        wanted = [one for one in (asked, picture) if one]
        lost = plan.make(wanted, place, slurm.carrier(HydraConfig.get(), settings)) if wish.run else None
        results = Path(settings["folders"]["results"])
        written = []
        if reproduction:
            rendered = (reproduction.as_recorded(place) if any_seed else reproduction).table_from(place)
            written += rendered.save(results / "tables")
            plan.show(rendered)
        if picture:
            shown = picture.as_recorded(place) if any_seed else picture
            drawn = shown.save(place, results / "figures")
            written += drawn
            for name in shown.missing(place):
                say(f"figure {picture.figure['name']}: not run: {name}")
            if not drawn:
                say(f"figure {picture.figure['name']} lacks records of its runs: not drawn")
        for path in written:
            say(f"written: {path}")
        if lost:
            raise lost


if __name__ == "__main__":
    app.run(main)
