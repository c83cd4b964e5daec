"""Run missing jobs on a SLURM cluster, and make the processes of one SLURM job the ranks of torch.distributed.

submitit writes, submits and watches the SLURM jobs, both for Hydra's launcher (``-m``) and for a table's jobs. Their
resources are set in configs/hydra/launcher/, see the README there.
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
POLL_SECONDS = 5.0  # between two checks for SLURM jobs that have ended
T = TypeVar("T")
_EXECUTORS = {"SlurmLauncher": "slurm", "LocalLauncher": "local"}  # submitit's names for Hydra's launchers


def init_ranks_from_submitit() -> bool:
    """If submitit started several processes as one job, set this one's rank for torch, as torchrun would.

    Returns whether it did. Nothing changes for a process that torchrun started, or that runs alone.
    """
    started = "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ
    if not started or JobEnvironment().num_tasks == 1:
        return False
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    os.environ |= {"TORCHELASTIC_RUN_ID": JobEnvironment().job_id, "TORCHELASTIC_RESTART_COUNT": "0"}
    return True


def run_on_rank_zero(program: Callable[[], T]) -> T | None:
    """Run ``program``; of several processes that submitit started, rank 0 runs it and the others work for rank 0."""
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
    """How to run missing jobs: in this process, or each as a cluster job of the ``hydra/launcher``.

    ``hydra`` is Hydra's config, ``settings`` the program's. Raises ConfigError for a launcher without a cluster, and if
    SLURM is not installed.
    """
    resources: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    target = resources.pop("_target_")
    launcher = target.rpartition(".")[2]
    # In a sweep, Hydra's launcher has already started this process for one of the jobs.
    if hydra.mode is RunMode.MULTIRUN or launcher == "BasicLauncher":
        return run_jobs
    if launcher not in _EXECUTORS:
        raise ConfigError("hydra/launcher: must be slurm or slurm_nodes here; other launchers are for sweeps (-m)")
    check_launcher(target)
    return partial(run_on_slurm, executor(_EXECUTORS[launcher], resources), RemoteJob(settings))


def executor(name: str, resources: dict[str, Any]) -> AutoExecutor:
    """submitit's executor ``name`` (slurm or local), which gives each job the ``resources`` of a launcher's config."""
    parameters = dict(resources)
    folder, timeouts = parameters.pop("submitit_folder"), parameters.pop("max_num_timeout", 0)
    auto_executor = AutoExecutor(folder, name, slurm_max_num_timeout=timeouts)
    # submitit expects a prefix before every parameter that only SLURM has.
    shared = {field.name for field in fields(BaseQueueConf)}
    prefixed = {key if key in shared else f"slurm_{key}": value for key, value in parameters.items()}
    auto_executor.update_parameters(**prefixed)
    return auto_executor


@dataclass(frozen=True)
class RemoteJob:
    """The work of a SLURM job: find or make one record on its node, with the program's ``settings``."""

    settings: dict[str, Any]

    def __call__(self, job: Job) -> Record | Exception | None:
        """The record, or the error; None on the ranks other than 0."""
        return run_on_rank_zero(partial(self._get_or_run, job))

    def _get_or_run(self, job: Job) -> Record | Exception:
        try:
            with defer_signals():
                return get_or_run(job, build_runtime(self.settings))
        except Exception as error:
            traceback.print_exc()  # into the SLURM job's own log
            return error

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """The job that submitit submits after a timeout: the same one, which resumes from its checkpoint."""
        return DelayedSubmission(self, job)


def run_on_slurm(auto_executor: AutoExecutor, work: RemoteJob, jobs: Iterable[Job], runtime: Runtime) -> Outcomes:
    """Like `runner.run_jobs`, but every job without a record becomes a SLURM job, all of them in one array.

    SLURM jobs outlive this process. The same command later finds their records, or waits for them.
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
    submitted = auto_executor.map_array(work, missing)
    by_id = {slurm_job.job_id: job for slurm_job, job in zip(submitted, missing, strict=True)}
    names = ", ".join(f"{job.name} ({number})" for number, job in by_id.items())
    console.print(f"submitted: {names}", markup=False)
    for slurm_job in as_completed(submitted, poll_frequency=POLL_SECONDS):
        try:
            outcome = slurm_job.results()[0]  # of rank 0
            assert outcome is not None
            yield by_id[slurm_job.job_id], outcome
        except UncompletedJobError as error:
            yield by_id[slurm_job.job_id], error


def check_launcher(target: str) -> None:
    """Raise ConfigError for a SLURM launcher without SLURM, and for any launcher but Hydra's basic one under torchrun.

    Under torchrun, rank 0 would hand jobs to other processes while the other ranks wait for work.
    """
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher: srun was not found; submit to SLURM from a machine of its cluster")
    if current_ranks().size > 1 and not target.endswith(".BasicLauncher"):
        raise ConfigError("hydra/launcher: must be basic under torchrun, whose processes train together")
