"""Hydra's sweeps: refuse those without jobs, and collect failed jobs from all processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from smoothout.cli.error_messages import format_error, is_bug, keep_traceback, report_error
from smoothout.common.errors import ConfigError
from smoothout.common.interrupts import defer_signals, exit_with_parent, interrupt_behind
from smoothout.common.progress import console

_SCRATCH = "SMOOTHOUT_SWEEP"  # the folder in which the jobs of a sweep report failures
_LEADER = "SMOOTHOUT_SWEEP_LEADER"  # the id of the process that runs the sweep


class SweepSummary(Callback):
    """Collects the failed jobs of a sweep, whichever process they ran in."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder that the jobs report to; ends the program if the sweep cannot run."""
        try:
            with defer_signals():  # an exception within torch's import could be lost
                from smoothout.jobs.slurm import check_launcher  # noqa: PLC0415

            check_launcher(config.hydra.launcher._target_)
            _refuse_empty(config)
            _tell_objective(config)
            scratch = tempfile.mkdtemp(prefix="smoothout-", dir=_shared_folder(config))
            os.environ.update({_SCRATCH: scratch, _LEADER: str(os.getpid())})
            _check_sweep_folder(config, scratch)
        except (Exception, KeyboardInterrupt) as error:
            sys.exit(report_error(interrupt_behind(error) or error))  # Hydra would turn it into a warning

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Make a process of a local pool end when its sweep ends, for whatever reason."""
        if os.environ.get(_LEADER) == str(os.getppid()):
            exit_with_parent()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Report one job that failed; a fault's traceback goes to the logs folder."""
        if _SCRATCH not in os.environ or job_return.status is not JobStatus.FAILED:
            return
        error = job_return._return_value
        line = json.dumps({"overrides": list(job_return.overrides or []), "error": format_error(error)})
        with suppress(OSError), (Path(os.environ[_SCRATCH]) / "failures.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if is_bug(error):
            keep_traceback(error, Path(config.folders.logs).expanduser() / f"failure-{HydraConfig.get().job.num}.txt")


def pop_failures() -> list[dict[str, Any]]:
    """The failed jobs of the sweep, each with its overrides and its error; deletes the sweep's scratch folder."""
    os.environ.pop(_LEADER, None)
    scratch = os.environ.pop(_SCRATCH, None)
    if scratch is None:
        return []
    path = Path(scratch) / "failures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    shutil.rmtree(scratch, ignore_errors=True)
    return [json.loads(line) for line in lines if line.endswith("}")]  # a full disk may have cut off the last one


def _refuse_empty(config: DictConfig) -> None:
    """Raise ConfigError for a sweep over no values, for which Hydra runs no job and prints nothing.

    Also for a sweeper that is to search with fewer than one trial.
    """
    trials = config.hydra.sweeper.get("n_trials")
    if trials is not None and trials < 1:
        raise ConfigError(f"hydra.sweeper.n_trials: must be at least 1, not {trials}")
    loader = GlobalHydra.instance().config_loader()
    params = config.hydra.sweeper.get("params") or {}
    given = [
        *(f"{key}={value}" for key, value in params.items() if isinstance(value, str)),
        *config.hydra.overrides.task,
    ]
    for override in OverridesParser.create(config_loader=loader).parse_overrides(given):
        if override.is_discrete_sweep() and not list(override.sweep_iterator()):
            of_group = isinstance(override.value(), Glob)
            hint = f"; must fit one of {', '.join(loader.get_group_options(override.key_or_group))}" if of_group else ""
            raise ConfigError(f"{override.input_line}: no value to run{hint}")


def _shared_folder(config: DictConfig) -> Path | None:
    """A folder that all jobs of a sweep see; None (the system's own) if they run on this machine."""
    if "submitit" not in config.hydra.launcher._target_:
        return None
    folder = Path(config.hydra.sweep.dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_sweep_folder(config: DictConfig, scratch: str) -> None:
    """Let Hydra use ``scratch`` if its folder for multirun.yaml, which nothing here reads, cannot be written."""
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
    except OSError as error:
        console.print(f"warning: folders.logs: {folder}: {error.strerror}; the sweep runs without it", markup=False)
        with read_write(config):
            config.hydra.sweep.dir = scratch
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={scratch}")  # for the jobs


def _tell_objective(config: DictConfig) -> None:
    """Print the objective and the direction of a sweeper that searches.

    Raises ConfigError for programs other than train.py, whose jobs return no objective.
    """
    sweeper, program = config.hydra.sweeper, config.hydra.job.name
    if "direction" not in sweeper:
        return
    if program != "train":
        raise ConfigError(f"hydra/sweeper: {program}.py gives no objective to search for; use hydra/sweeper=basic")
    console.print(
        "the sweeper sees each training's accuracy at the last epoch, held-out if data.validation_size is set, else"
        f" on the test split; hydra.sweeper.direction={sweeper.direction}",
        markup=False,
    )
