"""Try to break the programs: kills, signals, many writers, sweeps, broken input; writes results/reliability.md."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from smoothout.cli import app
from smoothout.common.files import write_text
from smoothout.common.progress import Bar, say
from smoothout.config.build import build
from smoothout.reliability import soak


@hydra.main(config_path="../configs", config_name="soak", version_base="1.3")
def main(config: DictConfig) -> None:
    """Try as much as ``config`` says, in a folder of its own."""
    with app.task(config) as (settings, place):
        wanted = build(settings.get("soak"), "soak", soak.Soak)
        with Bar("soak", wanted.parts) as bar:
            survived = soak.run(wanted, Path(__file__).resolve().parent, bar.tick)
        path = Path(place.folders.results) / "reliability.md"
        write_text(path, soak.markdown(wanted, survived, place.environment()))
        say(f"written: {path}")


if __name__ == "__main__":
    app.run(main)
