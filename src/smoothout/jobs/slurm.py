"""A cluster under SLURM: jobs that are missing here are made there, and processes of one job become torch's ranks.

submitit writes, submits and watches the cluster's jobs, for Hydra's launcher (``-m``) as for what is handed over here;
configs/hydra/launcher/ says what each may use.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

from hydra.conf import HydraConf
from hydra.types import RunMode
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import OmegaConf
from submitit import AutoExecutor, JobEnvironment
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment, as_completed

from smoothout.common.errors import ConfigError, RecordError
from smoothout.common.interrupts import defer_signals
from smoothout.common.progress import console
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runner import get_or_run, run_jobs
from smoothout.jobs.runtime import Runtime, build_runtime
from smoothout.jobs.training_job import run_worker_rank
from smoothout.results.records import Record
from smoothout.training.distributed import current_ranks

Outcomes = Iterator[tuple[Job, Record | Exception]]
JobRunner = Callable[[Iterable[Job], Runtime], Outcomes]
POLL_SECONDS = 5.0  # between two looks at which of the cluster's jobs have ended
T = TypeVar("T")
_EXECUTORS = {"SlurmLauncher": "slurm", "LocalLauncher": "local"}


def init_ranks_from_submitit() -> bool:
    """Where submitit started several processes as one job, tell torch which of them this is, as torchrun does.

    Returns whether it did.
    """
    started = "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ
    if not started or JobEnvironment().num_tasks == 1:
        return False
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    os.environ |= {"TORCHELASTIC_RUN_ID": JobEnvironment().job_id, "TORCHELASTIC_RESTART_COUNT": "0"}
    return True


def run_on_rank_zero(program: Callable[[], T]) -> T | None:
    """Run ``program``; of several processes that submitit started, the first runs it and the others follow."""
    if not init_ranks_from_submitit():
        return program()
    ranks = current_ranks()
    try:
        if ranks.rank == 0:
            return program()
        run_worker_rank(ranks)
        return None
    finally:
        ranks.shutdown()


def job_runner(hydra: HydraConf, settings: dict[str, Any]) -> JobRunner:
    """How missing jobs are made: by this process, or each as a job of the cluster that ``hydra/launcher=`` names.

    ``hydra`` is Hydra's own config, ``settings`` the program's. Raises SettingsError for a launcher that is no
    cluster's, and where there is no SLURM.
    """
    resources: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    target = resources.pop("_target_")
    launcher = target.rpartition(".")[2]
    if hydra.mode is RunMode.MULTIRUN or launcher == "BasicLauncher":
        return run_jobs
    if launcher not in _EXECUTORS:
        raise ConfigError("hydra/launcher: must be slurm or slurm_nodes here; other launchers are for sweeps (-m)")
    check_launcher(target)
    return partial(run_on_slurm, executor(_EXECUTORS[launcher], resources), RemoteJob(settings))


def executor(name: str, resources: dict[str, Any]) -> AutoExecutor:
    """submitit's executor ``name`` (slurm or local), which gives each job the ``resources`` of a launcher's config."""
    common, given = {field.name for field in fields(BaseQueueConf)}, dict(resources)
    folder, timeouts = given.pop("submitit_folder"), given.pop("max_num_timeout", 0)
    made = AutoExecutor(folder, name, slurm_max_num_timeout=timeouts)
    made.update_parameters(**{key if key in common else f"slurm_{key}": value for key, value in given.items()})
    return made


@dataclass(frozen=True)
class RemoteJob:
    """What a cluster's job does: find or make one record, at the place that ``settings`` describe over there."""

    settings: dict[str, Any]

    def __call__(self, job: Job) -> Record | Exception | None:
        """The record, or why there is none; None in a process that follows."""
        return run_on_rank_zero(partial(self._made, job))

    def _made(self, job: Job) -> Record | Exception:
        try:
            with defer_signals():
                return get_or_run(job, build_runtime(self.settings))
        except Exception as error:
            traceback.print_exc()  # into the job's own log
            return error

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """What follows a job that ran out of time: the same, for it goes on from the last checkpoint."""
        return DelayedSubmission(self, job)


def run_on_slurm(jobs_of: AutoExecutor, work: RemoteJob, jobs: Iterable[Job], runtime: Runtime) -> Outcomes:
    """Like `jobs.run_jobs`, but every job whose record is missing is a job of the cluster, all in one array.

    These go on when this process ends; the same command then finds their records, or waits for those that make them.
    """
    missing = []
    for job in jobs:
        try:
            record = find_record(job, runtime)
        except RecordError as error:
            yield job, error
        else:
            if record is None:
                missing.append(job)
            else:
                yield job, record
    if not missing:
        return
    handed = jobs_of.map_array(work, missing)
    by_id = {one.job_id: job for one, job in zip(handed, missing, strict=True)}
    console.print(f"handed over: {', '.join(f'{job.name} ({number})' for number, job in by_id.items())}", markup=False)
    for one in as_completed(handed, poll_frequency=POLL_SECONDS):
        try:
            outcome = one.results()[0]  # of the process that leads
            assert outcome is not None
            yield by_id[one.job_id], outcome
        except UncompletedJobError as error:
            yield by_id[one.job_id], error


def check_launcher(target: str) -> None:
    """Refuse a launcher that hands jobs to other processes where there is no SLURM, or where ranks would wait in vain.

    Raises SettingsError.
    """
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher: srun was not found; SLURM takes jobs from machines of its cluster alone")
    if current_ranks().size > 1 and not target.endswith(".BasicLauncher"):
        raise ConfigError("hydra/launcher: must be basic under torchrun, whose processes train together")
