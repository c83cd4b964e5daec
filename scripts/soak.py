"""Try to break the programs: kills, signals, many writers, sweeps, broken input; writes results/reliability.md."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from smoothout.cli import app
from smoothout.common.files import atomic_write_text
from smoothout.common.progress import Bar, print_line
from smoothout.config.build import build
from smoothout.reliability import soak


@hydra.main(config_path="../configs", config_name="soak", version_base="1.3")
def main(config: DictConfig) -> None:
    """Try as much as ``config`` says, in a folder of its own."""
    with app.program_session(config) as (settings, place):
        wanted = build(settings.get("soak"), "soak", soak.Soak)
        with Bar("soak", wanted.parts) as bar:
            survived = soak.run(wanted, Path(__file__).resolve().parent, bar.tick)
        path = Path(place.folders.results) / "reliability.md"
        atomic_write_text(path, soak.markdown(wanted, survived, place.environment()))
        print_line(f"written: {path}")


if __name__ == "__main__":
    app.run(main)
