"""Train one network, or with -m a sweep of them; each gets a record under results/train/."""

from functools import partial

import hydra
from omegaconf import DictConfig

from smoothout.cli import app
from smoothout.common.progress import say
from smoothout.config.experiment import experiment
from smoothout.jobs import slurm
from smoothout.jobs.job import Job
from smoothout.jobs.runner import ensure
from smoothout.results import summary


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or make the record of the training that ``config`` describes."""
    slurm.led(partial(train, config))


def train(config: DictConfig) -> None:
    """The same in one process, or in the first of several."""
    with app.task(config) as (settings, place):
        say(summary.training(ensure(Job(experiment(settings)), place)) + app.among_others())


if __name__ == "__main__":
    app.run(main)
