"""Analyze one recorded training (two for an interpolation); each analysis gets a record under results/."""

from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.cli import app, plan
from smoothout.common.progress import print_line
from smoothout.config.build import build, pick_settings
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.config.protocols import Analysis
from smoothout.jobs import slurm
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.reproduction.cells import epoch_seconds
from smoothout.results import summary

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@hydra.main(config_path="../configs", config_name="analyze", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or make the record of the analysis that ``config`` describes; under SLURM, in several processes."""
    slurm.run_on_rank_zero(partial(analyze, config))


def analyze(config: DictConfig) -> None:
    """Rank 0's part: train what the analysis needs, run it, and print its summary."""
    with app.program_session(config) as (settings, runtime):
        analysis: Analysis = build(settings.get("analysis"), "analysis", role=Analysis)
        configs = [settings]
        if analysis.runs == 2:
            # The second run: the first one's overrides, then those of second_run.
            changes = pick_settings(settings, second_run=tuple[str, ...]).second_run
            overrides = HydraConfig.get().overrides.task
            shared = [override for override in overrides if not override.startswith(("analysis", "second_run"))]
            configs.append(compose_config(CONFIGS, "train", [*shared, *changes]))
        job = Job(analysis, tuple(Job(build_experiment(config)) for config in configs))
        plan.announce_retraining(job, [epoch_seconds(config) for config in configs], runtime)
        print_line(summary.analysis_summary(get_or_run(job, runtime)) + app.sweep_suffix())


if __name__ == "__main__":
    app.run(main)
