"""Analyze one recorded training (two for an interpolation); each analysis gets a record under results/."""

from smoothout.cli import app, plan  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothout.analysis.jobs.base import AnalysisJob
from smoothout.common.errors import ConfigError, config_errors
from smoothout.common.progress import print_line
from smoothout.config.compose import compose_config, key_of, without_keys
from smoothout.config.experiment import TrainingConfig, training_config
from smoothout.jobs.job import Job
from smoothout.results import summary


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(TrainingConfig):
    """The settings of configs/analyze.yaml: a training, the analysis, and overrides for a second run."""

    analysis: AnalysisJob
    second_run: tuple[str, ...]


@hydra.main(config_path="../configs", config_name="analyze", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or make the record of the analysis that ``config`` describes; under SLURM, in several processes."""
    app.run_on_rank_zero(partial(analyze, config))


def analyze(config: DictConfig) -> None:
    """Rank 0's part: train what the analysis needs, run it, and print its summary."""
    with app.program_session(config, AnalyzeSettings) as (settings, runtime):
        from smoothout.jobs.runner import get_or_run  # noqa: PLC0415 -- imports torch; signals are deferred here

        runs: list[TrainingConfig] = [settings]
        overrides = HydraConfig.get().overrides.task
        if settings.analysis.runs == 1 and "second_run" in map(key_of, overrides):
            analysis = HydraConfig.get().runtime.choices["analysis"]
            raise ConfigError(f"second_run: has no effect on analysis={analysis}, which takes one run")
        if settings.analysis.runs == 2:
            # The second run: the first one's overrides, then those of second_run.
            changes = [*without_keys(overrides, {"analysis", "second_run"}), *settings.second_run]
            with config_errors("second_run: ", of=ConfigError):
                runs.append(training_config(compose_config(app.config_folders(), "train", changes)))
        job = Job(settings.analysis, tuple(Job(run.experiment()) for run in runs))
        plan.announce_retraining(job, [run.seconds_per_epoch() for run in runs], runtime)
        held_out = job.training_job.settings.data.validation_size is not None
        print_line(summary.analysis_summary(get_or_run(job, runtime), held_out=held_out) + app.sweep_suffix())


if __name__ == "__main__":
    app.run(main)
