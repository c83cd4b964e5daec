"""Train one network, or with -m a sweep; each run gets a record under results/train/."""

from smoothout.cli import app  # isort: skip # first, see smoothout.cli
from functools import partial

import hydra
from omegaconf import DictConfig

from smoothout.common.progress import print_line
from smoothout.config.experiment import TrainingConfig
from smoothout.jobs.job import Job
from smoothout.results import summary


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float | None:
    """Find or make the record of the training that ``config`` describes; under SLURM, in several processes."""
    return app.run_on_rank_zero(partial(train, config))


def train(config: DictConfig) -> float:
    """Rank 0's part: run the job and print its summary; returns the objective of sweepers that search."""
    with app.program_session(config, TrainingConfig) as (settings, runtime):
        from smoothout.jobs.runner import get_or_run  # noqa: PLC0415 -- imports torch; signals are deferred here

        record = get_or_run(Job(settings.experiment()), runtime)
        print_line(summary.training_summary(record) + app.sweep_suffix())
    return float(record.outcome["last"]["test_accuracy"])  # of the test split, or of held-out images


if __name__ == "__main__":
    app.run(main)
