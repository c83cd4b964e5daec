"""Choose the strength of the noise on held-out training images; the choice gets a record under results/strength/."""

from smoothout.cli import app, plan, show  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass

import hydra
from omegaconf import DictConfig

from smoothout.config.experiment import TrainingConfig
from smoothout.jobs.lookup import find_record
from smoothout.reproduction.choose_strength import Grid, StrengthSearch


@dataclass(frozen=True, kw_only=True)
class ChooseStrengthSettings(TrainingConfig):
    """The settings of configs/choose_strength.yaml: a training, the strengths and seeds, and the usual strengths."""

    grid: Grid
    strengths: dict[str, list[float]]


@hydra.main(config_path="../configs", config_name="choose_strength", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train with every strength that ``config`` names, and compare."""
    ineffective = {"seed": "grid.seeds", "method.a": "grid.strengths"}
    session = app.program_session(config, ChooseStrengthSettings, launches_jobs=True, ineffective=ineffective)
    with session as (settings, runtime):
        search = StrengthSearch(settings.experiment(), settings.grid, settings.seconds_per_epoch())
        failure = plan.plan_and_run([search], runtime, app.job_runner(config))
        record = find_record(search.choice, runtime)
        if record is not None:
            show.print_choice(record)
        if failure:
            raise failure


if __name__ == "__main__":
    app.run(main)
