"""Test claims on the records; the pages are <results>/claims.md and <results>/causes.md.

Other profiles and precisions than the papers' have their own pages, for example claims-short-bfloat16.md.
"""

from smoothout.cli import app, plan  # isort: skip # first, see smoothout.cli
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.common.files import atomic_write_text
from smoothout.common.progress import Bar, print_line
from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.verdict_page import Prose, VerdictPage

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ClaimsSettings:
    """The settings of configs/verdicts.yaml; page, prose and claims come from configs/claims/."""

    page: str = field(metadata={"hint": "a file of configs/claims/ begins with '# @package _global_', as papers.yaml"})
    prose: Prose
    claims: list[Any]
    claim_scope: ClaimScope
    run: bool
    plan: bool
    assumptions: tuple[str, ...]


@hydra.main(config_path="../configs", config_name="verdicts", version_base="1.3")
def main(config: DictConfig) -> None:
    """Test every claim and write the page."""
    with app.program_session(config, ClaimsSettings, launches_jobs=True) as (settings, runtime):
        scope = settings.claim_scope
        claims = Claims(settings.claims, scope, ROOT / "configs", ROOT / "results" / "published")
        if settings.plan:
            plan.print_plan([claims], runtime)
            return
        failure = plan.plan_and_run([claims], runtime, app.job_runner(config)) if settings.run else None
        with Bar("claims", len(claims.claims)) as bar:
            tests = claims.tests(runtime, bar.tick)
        folder = Path(runtime.folders.results)
        path, linked = folder / scope.file(settings.page), (folder / settings.page).exists()
        page = VerdictPage(tests, settings.prose, settings.assumptions, scope, command(), settings.page, linked=linked)
        atomic_write_text(path, page.markdown())
        print_line(f"written: {path}")
        if failure:
            raise failure


def command() -> str:
    """What makes the same page again, wherever records lie."""
    given = HydraConfig.get().overrides.task
    return shlex.join(["python", "scripts/verdicts.py", *(o for o in given if o.startswith(("claims", "claim_scope")))])


if __name__ == "__main__":
    app.run(main)
