"""Judge the papers' claims by the records there are; the page is <results>/README.md."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from smoothout import cli
from smoothout.claims import Claims, Judging
from smoothout.files import write_text
from smoothout.settings import build
from smoothout.verdicts import Page

ROOT = Path(__file__).resolve().parent.parent


@hydra.main(config_path="../configs", config_name="verdicts", version_base="1.3")
def main(config: DictConfig) -> None:
    """Test every claim and write the page."""
    with cli.task(config) as (settings, place):
        judging = build(settings["judging"], "judging", Judging)
        tests = [
            test
            for scope in judging.scopes()
            for test in Claims(settings["claims"], scope, ROOT / "configs", ROOT / "results" / "published").tests(place)
        ]
        page = Page(tests, settings["prose"], judging)
        path = Path(settings["folders"]["results"]) / "README.md"
        write_text(path, page.markdown())
        print(f"written: {path}")


if __name__ == "__main__":
    cli.run(main)
