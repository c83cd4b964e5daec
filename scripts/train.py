"""Train one network, or with -m a sweep of them; each gets a record under results/train/."""

import hydra
from omegaconf import DictConfig

from smoothout import cli, words
from smoothout.cluster import join_ranks
from smoothout.jobs import ensure
from smoothout.settings import experiment
from smoothout.work import Job


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or make the record of the training that ``config`` describes."""
    join_ranks()
    with cli.task(config) as (settings, place):
        print(words.training(ensure(Job(experiment(settings)), place)))


if __name__ == "__main__":
    cli.run(main)
