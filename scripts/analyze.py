"""Analyse one recorded training (or two, for an interpolation); each analysis gets a record."""

from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.common.progress import say
from smoothout.config.build import build, chosen
from smoothout.config.compose import compose_config
from smoothout.config.experiment import experiment
from smoothout.config.protocols import Analysis
from smoothout.jobs import slurm
from smoothout.jobs.job import Job
from smoothout.jobs.runner import ensure
from smoothout.reproduction.cells import epoch_seconds
from smoothout.results import summary

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@hydra.main(config_path="../configs", config_name="analyze", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or make the record of the analysis that ``config`` describes."""
    slurm.led(partial(analyze, config))


def analyze(config: DictConfig) -> None:
    """The same in one process, or in the first of several."""
    with app.task(config) as (settings, place):
        analysis: Analysis = build(settings.get("analysis"), "analysis", role=Analysis)
        configs = [settings]
        if analysis.runs == 2:
            other = chosen(settings, other=tuple[str, ...]).other
            given = [o for o in HydraConfig.get().overrides.task if not o.startswith(("analysis", "other"))]
            configs.append(compose_config(CONFIGS, "train", [*given, *other]))
        job = Job(analysis, tuple(Job(experiment(config)) for config in configs))
        plan.foretell(job, [epoch_seconds(config) for config in configs], place)
        say(summary.analysis(ensure(job, place)) + app.among_others())


if __name__ == "__main__":
    app.run(main)
