"""Judge claims by the records there are; the pages are <results>/README.md and <results>/causes.md.

Another profile or precision than the papers' has pages of its own, README-short-bfloat16.md say.
"""

import shlex
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.common.errors import ConfigError
from smoothout.common.files import atomic_write_text
from smoothout.common.progress import Bar, print_line
from smoothout.config.build import build, pick_settings
from smoothout.jobs import slurm
from smoothout.reproduction.claims import Claims, ClaimScope
from smoothout.reproduction.verdict_page import VerdictPage

ROOT = Path(__file__).resolve().parent.parent


@hydra.main(config_path="../configs", config_name="verdicts", version_base="1.3")
def main(config: DictConfig) -> None:
    """Test every claim and write the page."""
    with app.program_session(config, hands_over=True) as (settings, place):
        lacking = [key for key in ("page", "prose", "claims") if key not in settings]
        if lacking:
            name = HydraConfig.get().runtime.choices["claims"]
            raise ConfigError(
                f"{', '.join(lacking)}: must stand in configs/claims/{name}.yaml, below a first line"
                " '# @package _global_', as in papers.yaml"
            )
        claim_scope = build(settings.get("claim_scope"), "claim_scope", ClaimScope)
        wish = pick_settings(settings, run=bool, page=str, assumptions=tuple[str, ...])
        prose = pick_settings(settings["prose"], "prose.", title=str, introduction=str)
        published = ROOT / "results" / "published"
        judged = [Claims(settings["claims"], scope, ROOT / "configs", published) for scope in claim_scope.selections()]
        lost = plan.plan_and_run(judged, place, slurm.job_runner(HydraConfig.get(), settings)) if wish.run else None
        with Bar("claims", sum(len(claims.claims) for claims in judged)) as bar:
            tests = [test for claims in judged for test in claims.tests(place, bar.tick)]
        folder = Path(settings["folders"]["results"])
        path = folder / claim_scope.file(wish.page)
        linked = (folder / wish.page).exists()
        page = VerdictPage(tests, prose, wish.assumptions, claim_scope, command(), wish.page, linked=linked)
        atomic_write_text(path, page.markdown())
        print_line(f"written: {path}")
        if lost:
            raise lost


def command() -> str:
    """What makes the same page again, wherever records lie."""
    given = HydraConfig.get().overrides.task
    return shlex.join(["python", "scripts/verdicts.py", *(o for o in given if o.startswith(("claims", "claim_scope")))])


if __name__ == "__main__":
    app.run(main)
