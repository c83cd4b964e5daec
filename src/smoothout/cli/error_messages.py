"""Every error as one line for the user, and the exit code that tells whose fault it is."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException

from smoothout.common.errors import DistributedAbort, NestedConfigError, PeerLostError, UserError
from smoothout.common.files import atomic_write_text
from smoothout.common.interrupts import Interrupted
from smoothout.common.machine_errors import machine_error_hint
from smoothout.common.progress import console
from smoothout.config.build import unknown_key
from smoothout.config.moved import RENAMED
from smoothout.jobs.runtime import launched_ranks

WRONG_INPUT = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError)
_HYDRA = {"hydra", "hydra_plugins", "omegaconf"}
_TRAILERS = ("Config search path", "full_key:", "object_type=", "Set the environment variable", "To append to your")
_WITHOUT_KEYS = ("experiment", "protocol")  # groups that set the keys of others
_INSTEAD = {
    "reproduce": {"protocol": "scope.protocol", "profile": "scope.profile"},
    "verdicts": {"protocol": "claim_scope.protocols", "profile": "claim_scope.profile"},
}
_NO_OPTION = re.compile(
    r"In '[^']*': Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*?)\n(?=\S|$)", re.S
)
_NO_CHOICE = re.compile(r"Could not override '([^']+)'\. No match in the defaults list\.")


class JobsFailedError(Exception):
    """Some jobs were lost, and each was reported already; ``code`` is the program's exit code."""

    def __init__(self, lost: int, code: int) -> None:
        super().__init__(f"{lost} of its jobs failed, as reported above")
        self.code = code


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
    code = exit_code(error)
    if not may_report or isinstance(error, JobsFailedError):
        return code
    rank = f"rank {ranks.rank}: " if ranks and ranks.rank else ""
    console.print(f"error: {rank}{format_error(error)}", markup=False)
    if is_bug(error):
        if log is not None and keep_traceback(error, log):
            console.print(f"the traceback is in {log}", markup=False)
        else:
            traceback.print_exception(error)
    return code


def exit_code(error: BaseException) -> int:
    """2 for wrong input, 1 for a fault of the program or the machine."""
    return error.code if isinstance(error, JobsFailedError) else 2 if is_user_error(error) else 1


def is_bug(error: BaseException) -> bool:
    """Whether neither the user's input nor the machine is at fault, nor a job that was reported."""
    return not isinstance(error, JobsFailedError) and not is_user_error(error) and machine_error_hint(error) is None


def keep_traceback(error: BaseException, log: Path) -> bool:
    """Write the traceback to ``log``; returns whether that was possible."""
    with suppress(OSError):
        atomic_write_text(log, "".join(traceback.format_exception(error)))
        return True
    return False


def format_error(error: BaseException) -> str:
    """The message of an error as one line that names the setting, without the trailers of Hydra and OmegaConf."""
    if isinstance(error, NestedConfigError):
        return f"{error.place}: {format_error(error.cause)}"
    text = _misspelled(error) or str(error) or type(error).__name__
    text = _NO_OPTION.sub(_no_option, _NO_CHOICE.sub(_no_choice, text))
    kept = []
    for line in text.splitlines():
        if line.strip().startswith(_TRAILERS):
            break
        kept.append(line.strip())
    joined = " ".join(line for line in kept if line)
    if not is_user_error(error):
        prefix = "" if isinstance(error, JobsFailedError) else f"{type(error).__name__}: "
        return machine_error_hint(error) or prefix + joined
    culprit = getattr(error, "override", None) or getattr(error, "full_key", None)  # Hydra's, or OmegaConf's
    if culprit:
        return joined if str(culprit) in joined else f"{culprit}: {joined}"
    nameless = not isinstance(error, UserError | HydraException | yaml.YAMLError)
    return f"{joined}; among: {' '.join(sys.argv[1:])}" if nameless else joined


def _no_choice(match: re.Match[str]) -> str:
    """The line about a group that this program does not have."""
    group = match[1]
    meant = _INSTEAD.get(Path(sys.argv[0]).stem, {}).get(group) or RENAMED.get(group)
    hint = f" (did you mean {meant}?)" if meant else ""
    return f"{group}: is not a choice of this program{hint}; --help has examples of its settings"


def _no_option(match: re.Match[str]) -> str:
    """The line about a choice that a group does not have."""
    group, name, options = match[1], match[2], match[3].split()
    near = difflib.get_close_matches(name, options, 1)
    return f"{group}: {name!r} is not one of {', '.join(options)}{f' (did you mean {near[0]}?)' if near else ''}\n"


def _misspelled(error: BaseException) -> str | None:
    """The line about a key that the config lacks; Hydra would advise to add it with a +."""
    cause = error.__cause__
    if not isinstance(error, HydraException) or not isinstance(
        cause, ConfigAttributeError | ConfigKeyError | ConfigTypeError
    ):
        return None
    if not isinstance(cause.parent_node, DictConfig):
        return None
    node = OmegaConf.to_container(cause.parent_node)
    assert isinstance(node, dict)
    if isinstance(cause, ConfigTypeError) and str(cause).splitlines()[0].endswith(("pop", "deletion")):
        return f"{cause.full_key}: cannot be deleted; set it to another value"
    if isinstance(cause, ConfigTypeError):
        return f"{cause.full_key}: is a group of settings; set one of these: {', '.join(map(str, node))}"
    known = [str(name) for name in node if name not in ("_target_", "hydra")]
    within = [f"{name}.{key}" for name in known if isinstance(node[name], dict) for key in node[name]]
    if "model" in known and "." not in str(cause.full_key):
        known = [*_WITHOUT_KEYS, *known]
    return unknown_key(str(cause.full_key), known, within)


def is_user_error(error: BaseException) -> bool:
    """Whether the user's input is at fault; Hydra and its plugins raise plain errors for it, too.

    So do the packages that a plugin calls, such as optuna. hydra.core.utils raises what another process met, without
    its frames.
    """
    if isinstance(error, WRONG_INPUT):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    of_machine = isinstance(error, OSError | MemoryError) and machine_error_hint(error)
    if of_machine or "hydra.core.utils" in modules[-1:]:
        return False
    packages = [name.partition(".")[0] for name in modules]
    own = max((index for index, name in enumerate(packages) if name in ("smoothout", "__main__")), default=-1)
    last = (
        packages[-3:] if isinstance(error, UnicodeDecodeError) else packages[-1:]
    )  # of a config file that is not text
    by_plugin = "hydra_plugins" in packages[own + 1 :]
    no_folder = isinstance(error, OSError) and "hydra" in packages[own + 1 :]  # such as hydra.run.dir
    return not _HYDRA.isdisjoint(last) or by_plugin or no_folder
