"""Choose the noise's strength by held-out training images; the choice gets a record under results/strength/."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.config.build import build
from smoothout.config.experiment import experiment
from smoothout.jobs import slurm
from smoothout.jobs.lookup import recorded
from smoothout.reproduction.cells import epoch_seconds
from smoothout.reproduction.choose_strength import Choosing, Grid


@hydra.main(config_path="../configs", config_name="choose_strength", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train at every strength that ``config`` names, and compare."""
    instead = {"seed": "grid.seeds", "perturbation.a": "grid.strengths"}
    with app.task(config, hands_over=True, instead=instead) as (settings, place):
        grid = build(settings.get("grid"), "grid", Grid)
        choosing = Choosing(experiment(settings), grid, epoch_seconds(settings))
        lost = plan.make([choosing], place, slurm.carrier(HydraConfig.get(), settings))
        record = recorded(choosing.choice, place)
        if record is not None:
            plan.show_choice(record)
        if lost:
            raise lost


if __name__ == "__main__":
    app.run(main)
