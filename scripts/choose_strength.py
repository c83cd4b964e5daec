"""Choose the noise's strength by held-out training images; the choice gets a record under results/strength/."""

import sys

import hydra
from omegaconf import DictConfig

from smoothout import cli, terminal
from smoothout.choosing import Choosing, Grid
from smoothout.jobs import recorded
from smoothout.pictures import epoch_seconds
from smoothout.settings import build, experiment


@hydra.main(config_path="../configs", config_name="choose_strength", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train at every strength that ``config`` names, and compare."""
    with cli.task(config) as (settings, place):
        grid = build(settings["grid"], "grid", Grid)
        choosing = Choosing(experiment(settings), grid, epoch_seconds(settings))
        code = terminal.make([choosing], place)
        record = recorded(choosing.choice, place)
        if record is not None:
            terminal.show_choice(record)
    if code:  # a sweep goes on where all is well
        sys.exit(code)


if __name__ == "__main__":
    cli.run(main)
