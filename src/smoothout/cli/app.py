"""What the programs under scripts/ share: one line and an exit code for every error, and a summary after a sweep.

Exit codes: 0 done; 1 a fault of the program or the machine; 2 wrong input; 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra.utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from smoothout.cli.error_messages import JobsFailedError, already_reported, format_error, is_user_error
from smoothout.common.errors import ConfigError, DistributedAbort, PeerLostError
from smoothout.common.files import atomic_write_text
from smoothout.common.interrupts import Interrupted, defer_signals, exit_with_parent, raise_on_signals
from smoothout.common.machine_errors import machine_error_hint
from smoothout.common.progress import console
from smoothout.config.build import unknown_key
from smoothout.config.compose import compose_config, to_plain_dict
from smoothout.jobs.runtime import Runtime, build_runtime
from smoothout.jobs.slurm import check_launcher
from smoothout.jobs.training_job import run_worker_rank
from smoothout.training.distributed import current_ranks

_SWEEP = "SMOOTHOUT_SWEEP"  # the file that the jobs of a sweep report to
_LEADER = "SMOOTHOUT_SWEEP_LEADER"  # the number of the process that leads it


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; every error becomes one line on stderr and an exit code, a sweep ends with its summary.

    Of torchrun's processes the first one runs it; the others do their share of the trainings that it leads.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed and swallowed
    code, ranks, failures = 0, current_ranks(), list[dict[str, Any]]()
    try:
        with _own_callbacks(), raise_on_signals(), _arguments_checked():
            program() if ranks.rank == 0 else run_worker_rank(ranks)
    except (Exception, KeyboardInterrupt) as error:
        failures = _failures()
        told = format_error(error) in {failure["error"] for failure in failures}  # a sweep ends with its first failure
        log = Path("logs") / "failure.txt" if ranks.rank else None
        code = _code(error) if told else report_error(error, log)
    finally:
        ranks.shutdown()
    for failure in failures or _failures():
        console.print(f"failed: {' '.join(failure['overrides'])}: {failure['error']}", markup=False)
    sys.exit(code)


def _choices(*, _root_: DictConfig) -> str:
    """For the help of a program: each group of configs that it composes, and the names in it."""
    runtime = _root_.hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    lines = []
    for group in runtime.choices:
        names = sorted(path.stem for folder in folders for path in (folder / str(group)).glob("*.yaml"))
        lines += [f"{group}: {', '.join(names)}"] if names else []
    return "\n".join(lines)


OmegaConf.register_new_resolver("choices", _choices, replace=True)


@contextmanager
def _own_callbacks() -> Iterator[None]:
    """Within the block Hydra makes this module's callback and no other: else a config could have it call anything."""
    make, own = hydra.utils.instantiate, f"{SweepSummary.__module__}.{SweepSummary.__qualname__}"

    def checked(config: Any, *arguments: Any, **settings: Any) -> Any:
        target = config.get("_target_") if isinstance(config, DictConfig) else config
        if target != own:
            raise ConfigError(f"hydra.callbacks: _target_: {target!r} is not {own}")
        return make(config, *arguments, **settings)

    hydra.utils.instantiate = checked
    try:
        yield
    finally:
        hydra.utils.instantiate = make


@contextmanager
def _arguments_checked() -> Iterator[None]:
    """Within the block a wrong argument is an error as every other, and settings may stand before and after options."""
    usual, parse = ArgumentParser.error, ArgumentParser.parse_args

    def refuse(_: ArgumentParser, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help shows what is allowed")

    if any(argument.startswith("--experimental-r") for argument in sys.argv[1:]):  # it loads a pickled object
        raise ConfigError("--experimental-rerun: is no option of this program; --help shows what is allowed")
    ArgumentParser.error = refuse  # type: ignore[method-assign,assignment]
    ArgumentParser.parse_args = ArgumentParser.parse_intermixed_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        ArgumentParser.error, ArgumentParser.parse_args = usual, parse  # type: ignore[method-assign]


def report_error(error: BaseException, log: Path | None = None) -> int:
    """Say on stderr, in one line, what went wrong; returns the exit code. A bug's traceback goes to ``log``.

    Of several processes the first one that fails says it, and those that end because of it are silent.
    """
    if isinstance(error, DistributedAbort) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PeerLostError):
        return 1
    telling = current_ranks().may_report()
    if isinstance(error, KeyboardInterrupt):
        if telling:
            console.print(f"stopped: {str(error) or 'the same command goes on from here'}", markup=False)
        return 128 + (error.number if isinstance(error, Interrupted) else 2)
    code = _code(error)
    if not telling or already_reported(error):
        return code
    console.print(
        f"error: {f'rank {current_ranks().rank}: ' if current_ranks().rank else ''}{format_error(error)}", markup=False
    )
    if code == 1 and machine_error_hint(error) is None:
        if log is None:
            traceback.print_exception(error)
        else:
            atomic_write_text(log, "".join(traceback.format_exception(error)))
            console.print(f"the traceback is in {log}", markup=False)
    return code


@contextmanager
def program_session(
    config: DictConfig, hands_over: bool = False, instead: Mapping[str, str] | None = None
) -> Iterator[tuple[dict[str, Any], Runtime]]:
    """The composed settings as plain values, and the place to work at; errors within a sweep are left to the sweep.

    Args:
        config: as Hydra composed it.
        hands_over: the program gives single jobs to a cluster; others know launchers in sweeps alone.
        instead: settings that would do nothing here, and those that do it; they are refused.
    """
    try:
        _refuse_new_keys(HydraConfig.get().overrides.task, config)
        _refuse_idle_keys(HydraConfig.get().overrides.task, instead or {})
        if not hands_over and HydraConfig.get().mode is not RunMode.MULTIRUN:
            _refuse_launcher(HydraConfig.get().launcher._target_)
        settings = to_plain_dict(config)
        with defer_signals(), _one_line_warnings():
            yield settings, build_runtime(settings)
    except (Exception, KeyboardInterrupt) as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        named = OmegaConf.select(config, "folders.logs")
        logs = named if isinstance(named, str) else "logs"
        sys.exit(report_error(error, Path(logs) / "failure.txt"))


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Within the block a warning is one line, without the place in the source that it comes from."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _code(error: BaseException) -> int:
    """The exit code: 2 where the input is at fault, 1 where it is the program or the machine."""
    return error.code if isinstance(error, JobsFailedError) else 2 if is_user_error(error) else 1


def sweep_suffix() -> str:
    """What tells a job's line from those of other jobs: in a sweep its overrides, else nothing."""
    hydra = HydraConfig.get()
    return f" [{' '.join(hydra.overrides.task)}]" if hydra.mode is RunMode.MULTIRUN else ""


def _refuse_new_keys(overrides: Sequence[str], config: DictConfig) -> None:
    """``+key=value`` adds a setting that nothing reads: a misspelling, most likely. ``++key=value`` may set one."""
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        known = override.startswith("++") and key in _keys_before()
        if override.startswith("+") and "." not in key and not known:
            raise ConfigError(unknown_key(key, [str(name) for name in config if name != key]))


def _refuse_idle_keys(overrides: Sequence[str], instead: Mapping[str, str]) -> None:
    for key in (override.lstrip("+").partition("=")[0] for override in overrides):
        if key in instead:
            raise ConfigError(f"{key}: does nothing in this program; set {instead[key]}")


def _keys_before() -> set[str]:
    """The program's settings without what the command line says."""
    hydra = HydraConfig.get()
    [folder] = [source.path for source in hydra.runtime.config_sources if source.provider == "main"]
    return set(compose_config(Path(folder), str(hydra.job.config_name), []))


def _refuse_launcher(target: str) -> None:
    """A launcher that nobody asks for its services would be a setting without effect."""
    if not target.endswith(".BasicLauncher"):
        raise ConfigError("hydra/launcher: this program hands the runs of a sweep (-m) over, and no single one")


class SweepSummary(Callback):
    """Collects how each job of a sweep ended, whatever process it ran in."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Open the file that the jobs report to; ends the program where the launcher cannot serve here."""
        try:
            check_launcher(config.hydra.launcher._target_)
        except ConfigError as error:
            sys.exit(report_error(error))  # Hydra turns a callback's other exceptions into warnings
        handle, path = tempfile.mkstemp(suffix=".jsonl", dir=_seen_by_all_jobs(config))
        os.close(handle)
        os.environ.update({_SWEEP: path, _LEADER: str(os.getpid())})

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Let a process of a local pool end with the sweep that it works for, whatever ends that."""
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
        if not is_user_error(error) and not already_reported(error) and machine_error_hint(error) is None:
            number = HydraConfig.get().job.num
            atomic_write_text(
                Path(config.folders.logs) / f"failure-{number}.txt", "".join(traceback.format_exception(error))
            )


def _seen_by_all_jobs(config: DictConfig) -> Path | None:
    """A folder that a sweep's jobs see wherever they run; None, the system's own, where that is this machine."""
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
