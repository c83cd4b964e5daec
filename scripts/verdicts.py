"""Test claims on the records; the pages are <results>/claims.md, <results>/causes.md and <results>/confirmation.md.

Other profiles and precisions than the papers' have their own pages, for example claims-short-bfloat16.md.
"""

from smoothout.cli import app, plan  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass, fields
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.common.errors import ConfigError
from smoothout.common.files import atomic_write_text
from smoothout.common.progress import Bar, print_line
from smoothout.config.compose import key_of
from smoothout.reproduction.pages import PageConfig, check_overwritable, find_pages


@dataclass(frozen=True)
class ClaimsSettings(PageConfig):
    """The settings of configs/verdicts.yaml; page, prose and claims come from configs/claims/."""

    run: bool
    plan: bool
    all_pages: bool
    pages: tuple[tuple[str, ...], ...]


@hydra.main(config_path="../configs", config_name="verdicts", version_base="1.3")
def main(config: DictConfig) -> None:
    """Test every claim and write the page."""
    with app.program_session(config, ClaimsSettings, launches_jobs=True) as (settings, runtime):
        requested = PageConfig(**{field.name: getattr(settings, field.name) for field in fields(PageConfig)})
        given = [o for o in HydraConfig.get().overrides.task if key_of(o) in ("claims", "claim_scope")]
        if settings.all_pages and given:
            raise ConfigError(f"all_pages: writes the pages of this list as they are; must be false with {given[0]}")
        scope = settings.claim_scope
        app.check_choices({"claim_scope.protocols": scope.protocols, "claim_scope.profile": [scope.profile]})
        page, pages = find_pages(requested, given, settings.pages, app.config_folders(), app.published_folder())
        chosen = pages if settings.all_pages else [page]
        folder = Path(runtime.folders.results)
        for one in chosen:
            check_overwritable(folder / one.config.file)
        targets = [one.claims for one in chosen]
        runner = app.job_runner(config) if settings.run and not settings.plan else None
        searches = [search for claims in targets for search in claims.unique_searches]
        # Searches come first, because other trainings take the strengths that they choose.
        failure = plan.plan_and_run(searches, runtime, runner) if runner else None
        for claims in targets:
            claims.use_choices(runtime)
        if settings.plan:
            plan.print_choices(searches, runtime)
            plan.print_plan(targets, runtime)
            return
        failure = (plan.plan_and_run(targets, runtime, runner) if runner else None) or failure
        with Bar("claims", sum(len(one.claims.claims) for one in pages)) as bar:
            tests = {one.config.file: one.claims.tests(runtime, bar.tick) for one in pages}
        for one in chosen:
            atomic_write_text(folder / one.config.file, one.verdicts(tests, folder).markdown())
            print_line(f"written: {folder / one.config.file}")
        if failure:
            raise failure


if __name__ == "__main__":
    app.run(main)
