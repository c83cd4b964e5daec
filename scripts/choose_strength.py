"""Choose the noise's strength by held-out training images; the choice gets a record under results/strength/."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.config.build import build
from smoothout.config.experiment import build_experiment
from smoothout.jobs import slurm
from smoothout.jobs.lookup import find_record
from smoothout.reproduction.cells import epoch_seconds
from smoothout.reproduction.choose_strength import Grid, StrengthSearch


@hydra.main(config_path="../configs", config_name="choose_strength", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train at every strength that ``config`` names, and compare."""
    instead = {"seed": "grid.seeds", "method.a": "grid.strengths"}
    with app.program_session(config, hands_over=True, instead=instead) as (settings, place):
        grid = build(settings.get("grid"), "grid", Grid)
        choosing = StrengthSearch(build_experiment(settings), grid, epoch_seconds(settings))
        lost = plan.plan_and_run([choosing], place, slurm.job_runner(HydraConfig.get(), settings))
        record = find_record(choosing.choice, place)
        if record is not None:
            plan.print_choice(record)
        if lost:
            raise lost


if __name__ == "__main__":
    app.run(main)
