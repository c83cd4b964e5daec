"""Run the programs in scripts/: check settings, report errors in one line, summarize sweeps.

Exit codes: 0 done; 1 a fault of the program or the machine; 2 wrong input; 130 and 143 stopped by SIGINT and SIGTERM.
Modules that need torch are imported by the functions that use them: --help and rendering work without.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from smoothout.cli.error_messages import exit_code, format_error, report_error
from smoothout.cli.sweep import pop_failures
from smoothout.common.errors import ConfigError
from smoothout.common.interrupts import defer_signals, interrupt_behind, raise_on_signals
from smoothout.common.progress import console
from smoothout.config.build import unknown_choice, validate
from smoothout.config.compose import check_added, config_names, key_of, to_plain_dict, with_source
from smoothout.config.moved import current_overrides
from smoothout.jobs.runtime import RUNTIME_KEYS, Runtime, build_runtime, launched_ranks

if TYPE_CHECKING:
    from smoothout.jobs.slurm import JobRunner

T = TypeVar("T")
_TAKING_VALUES = {f"--config-{what}" for what in ("dir", "path", "name")} | {"-cd", "-cp", "-cn"}  # options of Hydra


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; every error becomes one line on stderr and an exit code, a sweep ends with its summary.

    Under torchrun, rank 0 runs the program; the others work on the trainings that it leads.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed and swallowed
    for name in filter(re.compile("SMOOTHOUT_[A-Z]+").fullmatch, os.environ):  # folders; Hydra would make one named ~
        os.environ[name] = str(Path(os.environ[name]).expanduser()) if os.environ[name] else ""
    code, ranks, failures = 0, launched_ranks(), list[dict[str, Any]]()
    try:
        with raise_on_signals(), _one_line_warnings():
            sys.argv = [sys.argv[0], *_current_arguments(sys.argv[1:])]
            if ranks is None or ranks.rank == 0:
                program()
            else:
                with defer_signals():  # an exception within torch's import could be lost
                    from smoothout.jobs.training_job import run_worker_rank  # noqa: PLC0415

                run_worker_rank(ranks)
    except (Exception, KeyboardInterrupt) as error:
        failures = pop_failures()
        # A sweep ends with the error of its first failed job, which is among the failures.
        is_known = format_error(error) in {failure["error"] for failure in failures}
        log = Path("logs") / "failure.txt" if ranks and ranks.rank else None
        code = exit_code(error) if is_known else report_error(error, log)
    finally:
        if ranks is not None:
            ranks.shutdown()
    for failure in failures or pop_failures():
        console.print(f"failed: {' '.join(failure['overrides'])}: {failure['error']}", markup=False)
    sys.exit(code)


def _current_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with current names of settings, which are moved before all options."""
    values = {index + 1 for index, text in enumerate(arguments) if text in _TAKING_VALUES}
    found = [
        index not in values and (("=" in text and not text.startswith("-")) or text.startswith("~"))
        for index, text in enumerate(arguments)
    ]
    overrides = list(compress(arguments, found))
    return [*current_overrides(overrides), *(text for text, one in zip(arguments, found, strict=True) if not one)]


def _choices(*, _root_: DictConfig) -> str:
    """For a program's --help: each group of configs that it composes, and the names in it."""
    runtime = _root_.hydra.runtime
    lines = []
    for group in runtime.choices:
        names = config_names(_folders_among(runtime.config_sources), str(group))
        lines += [f"{group}: {', '.join(names)}"] if names else []
    return "\n".join(lines)


OmegaConf.register_new_resolver("choices", _choices, replace=True)


def config_folders() -> tuple[Path, ...]:
    """Where the program finds configs: configs/, then the folders of --config-dir and hydra.searchpath.

    Raises ConfigError as `check_added`, and for a package in hydra.searchpath, which no other program would find.
    """
    sources = HydraConfig.get().runtime.config_sources
    for source in sources:
        if source.provider.startswith("hydra.searchpath") and source.schema != "file":
            raise ConfigError(f"hydra.searchpath: must be folders, not {source.schema}://{source.path}")
    folders = _folders_among(sources)
    check_added(folders)
    return folders


def published_folder() -> Path:
    """Where the papers' numbers are: results/published/, beside configs/."""
    return config_folders()[0].parent / "results" / "published"


def check_choices(choices: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError unless the ``choices`` of groups of configs exist, by the setting that names them."""
    for setting, names in choices.items():
        known = config_names(config_folders(), setting.rpartition(".")[2].removesuffix("s"))
        for name in names:
            if name not in known:
                raise ConfigError(unknown_choice(setting, name, known))


def is_default(group: str) -> bool:
    """Whether the command line leaves the choice of a ``group`` of configs as it is."""
    return group not in map(key_of, HydraConfig.get().overrides.task)


def check_names(**groups: Mapping[str, Any] | None) -> None:
    """Raise ConfigError if a config that a user added would replace the results of one in configs/."""
    for group, values in groups.items():
        choice, ours = HydraConfig.get().runtime.choices.get(group), config_names(config_folders()[0], group)
        if values and choice not in ours and values.get("name") in ours:
            raise ConfigError(
                f"{group}.name: {values['name']!r} names the results of configs/{group}/{values['name']}.yaml; must be"
                f" another name, such as {choice!r}"
            )


def _folders_among(sources: Sequence[Any]) -> tuple[Path, ...]:
    return tuple(Path(source.path).resolve() for source in sources if source.schema == "file")


@contextmanager
def program_session(
    config: DictConfig, kind: type[T], *, launches_jobs: bool = False, ineffective: Mapping[str, str] | None = None
) -> Iterator[tuple[T, Runtime]]:
    """Yield the program's checked settings and the runtime. Errors end the program; in a sweep, Hydra handles them.

    Args:
        kind: the dataclass of the program's settings, without those of the runtime.
        launches_jobs: whether the program hands single jobs to a cluster; others accept launchers in sweeps only.
        ineffective: settings without effect in this program, each with the setting to use instead; they are refused.
    """
    try:
        hydra = HydraConfig.get()
        if hydra.job.chdir:  # Hydra changed the working directory; our paths are relative to the user's
            os.chdir(hydra.runtime.cwd)
        _refuse_ineffective(hydra.overrides.task, ineffective or {})
        if not launches_jobs and hydra.mode is not RunMode.MULTIRUN:
            _refuse_launcher(hydra.launcher._target_)
        values = with_source(to_plain_dict(config), config_folders(), hydra.overrides.task)
        values = _without_helpers(values, config, kind)
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
        folder = Path(logs if isinstance(logs, str) else "logs").expanduser()
        sys.exit(report_error(interrupt or error, folder / "failure.txt"))


def run_on_rank_zero(program: Callable[[], T]) -> T | None:
    """Run ``program``; of several processes that SLURM started, the first runs it and the others work with it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return program()
    with defer_signals():
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


def sweep_suffix() -> str:
    """The job's overrides, to tell its line from those of a sweep's other jobs; empty outside of sweeps."""
    hydra = HydraConfig.get()
    return f" [{' '.join(hydra.overrides.task)}]" if hydra.mode is RunMode.MULTIRUN else ""


def _without_helpers(values: dict[str, Any], config: DictConfig, kind: type[Any]) -> dict[str, Any]:
    """``values`` without keys that users added only to refer to them in other settings, as ${key}."""
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
