"""The frame of the programs under scripts/: checked settings, errors as one line, a summary after a sweep.

Exit codes: 0 done; 1 a fault of the program or the machine; 2 wrong input; 130 and 143 stopped by SIGINT and SIGTERM.
Modules that need torch are imported by the functions that use them: --help and rendering work without.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from smoothout.cli.error_messages import JobsFailedError, format_error, is_user_error
from smoothout.common.errors import ConfigError, DistributedAbort, PeerLostError
from smoothout.common.files import atomic_write_text
from smoothout.common.interrupts import (
    Interrupted,
    defer_signals,
    exit_with_parent,
    interrupt_behind,
    raise_on_signals,
)
from smoothout.common.machine_errors import machine_error_hint
from smoothout.common.progress import console
from smoothout.config.build import validate
from smoothout.config.compose import to_plain_dict
from smoothout.config.moved import current_overrides
from smoothout.jobs.runtime import RUNTIME_KEYS, Runtime, build_runtime, launched_ranks

if TYPE_CHECKING:
    from smoothout.jobs.slurm import JobRunner

T = TypeVar("T")
_SWEEP = "SMOOTHOUT_SWEEP"  # the file in which the jobs of a sweep report failures
_LEADER = "SMOOTHOUT_SWEEP_LEADER"  # the id of the process that runs the sweep


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; every error becomes one line on stderr and an exit code, a sweep ends with its summary.

    Under torchrun, rank 0 runs the program; the others work on the trainings that it leads.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed and swallowed
    code, ranks, failures = 0, launched_ranks(), list[dict[str, Any]]()
    try:
        with raise_on_signals(), _one_line_warnings():
            sys.argv = [sys.argv[0], *_current_arguments(sys.argv[1:])]
            if ranks is None or ranks.rank == 0:
                program()
            else:
                from smoothout.jobs.training_job import run_worker_rank  # noqa: PLC0415

                run_worker_rank(ranks)
    except (Exception, KeyboardInterrupt) as error:
        failures = _failures()
        told = format_error(error) in {failure["error"] for failure in failures}  # a sweep ends with its first failure
        log = Path("logs") / "failure.txt" if ranks and ranks.rank else None
        code = _exit_code(error) if told else report_error(error, log)
    finally:
        if ranks is not None:
            ranks.shutdown()
    for failure in failures or _failures():
        console.print(f"failed: {' '.join(failure['overrides'])}: {failure['error']}", markup=False)
    sys.exit(code)


def _current_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with current names of settings, which come before the options wherever they stood."""
    overrides = [text for text in arguments if ("=" in text and not text.startswith("-")) or text.startswith("~")]
    return [*current_overrides(overrides), *(text for text in arguments if text not in overrides)]


def _choices(*, _root_: DictConfig) -> str:
    """For a program's --help: each group of configs that it composes, and the names in it."""
    runtime = _root_.hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    lines = []
    for group in runtime.choices:
        names = sorted(path.stem for folder in folders for path in (folder / str(group)).glob("*.yaml"))
        lines += [f"{group}: {', '.join(names)}"] if names else []
    return "\n".join(lines)


OmegaConf.register_new_resolver("choices", _choices, replace=True)


def report_error(error: BaseException, log: Path | None = None) -> int:
    """Print one line about ``error`` on stderr; returns the exit code. A bug's traceback goes to ``log``.

    Of several processes, the first that fails reports it; those that end because of it are silent.
    """
    if isinstance(error, DistributedAbort) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PeerLostError):
        return 1
    ranks = launched_ranks()
    may_report = ranks is None or ranks.may_report()
    if isinstance(error, KeyboardInterrupt):
        if may_report:
            console.print(f"stopped: {str(error) or 'run the same command to resume'}", markup=False)
        return 128 + (error.number if isinstance(error, Interrupted) else 2)
    code = _exit_code(error)
    if not may_report or isinstance(error, JobsFailedError):
        return code
    rank = f"rank {ranks.rank}: " if ranks and ranks.rank else ""
    console.print(f"error: {rank}{format_error(error)}", markup=False)
    if code == 1 and machine_error_hint(error) is None:
        if log is None:
            traceback.print_exception(error)
        else:
            atomic_write_text(log, "".join(traceback.format_exception(error)))
            console.print(f"the traceback is in {log}", markup=False)
    return code


@contextmanager
def program_session(
    config: DictConfig, kind: type[T], *, launches_jobs: bool = False, ineffective: Mapping[str, str] | None = None
) -> Iterator[tuple[T, Runtime]]:
    """The program's settings, checked, and the runtime; errors end the program, in a sweep they are left to Hydra.

    Args:
        kind: the dataclass of the program's settings, without those of the runtime.
        launches_jobs: whether the program hands single jobs to a cluster; others accept launchers in sweeps only.
        ineffective: settings without effect in this program, each with the setting to use instead; they are refused.
    """
    try:
        hydra = HydraConfig.get()
        _refuse_ineffective(hydra.overrides.task, ineffective or {})
        if not launches_jobs and hydra.mode is not RunMode.MULTIRUN:
            _refuse_launcher(hydra.launcher._target_)
        values = _without_helpers(to_plain_dict(config), config, kind)
        runtime = {name: values.pop(name) for name in RUNTIME_KEYS if name in values}
        settings = validate(kind, values, "", other_names=RUNTIME_KEYS)
        with defer_signals():
            yield settings, build_runtime(runtime)
    except (Exception, KeyboardInterrupt) as error:
        interrupt = interrupt_behind(error)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            if interrupt is not None:
                raise interrupt from error
            raise
        logs = OmegaConf.select(config, "folders.logs")
        sys.exit(report_error(interrupt or error, Path(logs if isinstance(logs, str) else "logs") / "failure.txt"))


def run_on_rank_zero(program: Callable[[], T]) -> T | None:
    """Run ``program``; of several processes that SLURM started, the first runs it and the others work with it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return program()
    from smoothout.jobs import slurm  # noqa: PLC0415

    return slurm.run_on_rank_zero(program)


def job_runner(config: DictConfig) -> JobRunner:
    """How missing jobs are run: in this process, or on the cluster that ``hydra/launcher=`` names."""
    from smoothout.jobs import slurm  # noqa: PLC0415

    values = to_plain_dict(config)
    return slurm.job_runner(HydraConfig.get(), {name: values[name] for name in RUNTIME_KEYS if name in values})


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print warnings as one line, without their place in the source."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _exit_code(error: BaseException) -> int:
    """2 for wrong input, 1 for a fault of the program or the machine."""
    return error.code if isinstance(error, JobsFailedError) else 2 if is_user_error(error) else 1


def sweep_suffix() -> str:
    """The job's overrides, to tell its line from those of a sweep's other jobs; empty outside of sweeps."""
    hydra = HydraConfig.get()
    return f" [{' '.join(hydra.overrides.task)}]" if hydra.mode is RunMode.MULTIRUN else ""


def _without_helpers(values: dict[str, Any], config: DictConfig, kind: type[Any]) -> dict[str, Any]:
    """``values`` without keys of users that only other settings refer to, as ${key}."""
    known = {*RUNTIME_KEYS, *(field.name for field in dataclasses.fields(kind))}
    if known >= values.keys():
        return values
    text = OmegaConf.to_yaml(config)
    return {key: values[key] for key in values if key in known or not re.search(rf"\$\{{(oc\.select:)?{key}\b", text)}


def _refuse_ineffective(overrides: Sequence[str], ineffective: Mapping[str, str]) -> None:
    for key in (override.lstrip("+").partition("=")[0] for override in overrides):
        if key in ineffective:
            raise ConfigError(f"{key}: has no effect in this program; set {ineffective[key]}")


def _refuse_launcher(target: str) -> None:
    if not target.endswith(".BasicLauncher"):
        raise ConfigError("hydra/launcher: launchers apply to sweeps only; add -m, or drop hydra/launcher=...")


class SweepSummary(Callback):
    """Collects how each job of a sweep ended, in whichever process it ran."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Open the file that the jobs report to; ends the program if the launcher cannot work on this machine."""
        from smoothout.jobs.slurm import check_launcher  # noqa: PLC0415

        try:
            check_launcher(config.hydra.launcher._target_)
        except ConfigError as error:
            sys.exit(report_error(error))  # Hydra turns a callback's other exceptions into warnings
        handle, path = tempfile.mkstemp(suffix=".jsonl", dir=_shared_folder(config))
        os.close(handle)
        os.environ.update({_SWEEP: path, _LEADER: str(os.getpid())})

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Let a process of a local pool end with its sweep, however that ends."""
        if os.environ.get(_LEADER) == str(os.getppid()):
            exit_with_parent()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Report one job that failed; a fault's traceback goes to the logs folder."""
        if _SWEEP not in os.environ or job_return.status is not JobStatus.FAILED:
            return
        error = job_return._return_value
        line = json.dumps({"overrides": list(job_return.overrides or []), "error": format_error(error)})
        with Path(os.environ[_SWEEP]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        reported = isinstance(error, JobsFailedError)
        if not reported and not is_user_error(error) and machine_error_hint(error) is None:
            number = HydraConfig.get().job.num
            atomic_write_text(
                Path(config.folders.logs) / f"failure-{number}.txt", "".join(traceback.format_exception(error))
            )


def _shared_folder(config: DictConfig) -> Path | None:
    """A folder that all jobs of a sweep see; None (the system's own) if they run on this machine."""
    if "submitit" not in config.hydra.launcher._target_:
        return None
    folder = Path(config.hydra.sweep.dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _failures() -> list[dict[str, Any]]:
    os.environ.pop(_LEADER, None)
    path = os.environ.pop(_SWEEP, None)
    if path is None:
        return []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    Path(path).unlink()
    return [json.loads(line) for line in lines]
