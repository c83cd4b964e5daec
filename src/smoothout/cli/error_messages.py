"""Print every error as one line for the user, and choose the exit code by whose fault it is."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

from smoothout.common.errors import DistributedAbort, PeerLostError, UserError
from smoothout.common.files import atomic_write_text
from smoothout.common.interrupts import Interrupted
from smoothout.common.machine_errors import machine_error_hint
from smoothout.common.progress import console
from smoothout.config.hydra_errors import HYDRA_ERRORS, format_hydra_error
from smoothout.jobs.runtime import launched_ranks

WRONG_INPUT = (UserError, *HYDRA_ERRORS)
_HYDRA = {"hydra", "hydra_plugins", "omegaconf"}


class JobsFailedError(Exception):
    """Some jobs failed, and each was reported already; ``code`` is the program's exit code."""

    def __init__(self, lost: int, code: int) -> None:
        super().__init__(f"{lost} of its jobs failed, as reported above")
        self.code = code


def report_error(error: BaseException, log: Path | None = None) -> int:
    """Print one line about ``error`` on stderr; returns the exit code. A bug's traceback goes to ``log``.

    With several processes, the first that fails reports its error; those that end because of it print nothing.
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
    """Whether the cause is none of: the user's input, the machine, jobs that were reported already."""
    return not isinstance(error, JobsFailedError) and not is_user_error(error) and machine_error_hint(error) is None


def keep_traceback(error: BaseException, log: Path) -> bool:
    """Write the traceback to ``log``; returns whether that was possible."""
    with suppress(OSError):
        atomic_write_text(log, "".join(traceback.format_exception(error)))
        return True
    return False


def format_error(error: BaseException) -> str:
    """The message of an error as one line that names the setting."""
    if is_user_error(error) and not isinstance(error, UserError):
        return format_hydra_error(error, sys.argv[1:])
    joined = " ".join(filter(None, map(str.strip, str(error).splitlines()))) or type(error).__name__
    if isinstance(error, UserError | JobsFailedError):
        return joined
    return machine_error_hint(error) or f"{type(error).__name__}: {joined}"


def is_user_error(error: BaseException) -> bool:
    """Whether the user's input is at fault.

    Hydra, its plugins and the packages that these call (such as optuna) raise plain errors for wrong input.
    hydra.core.utils raises the errors of other processes again, without their frames.
    """
    if isinstance(error, WRONG_INPUT):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    of_machine = isinstance(error, OSError | MemoryError) and machine_error_hint(error)
    if of_machine or "hydra.core.utils" in modules[-1:]:
        return False
    packages = [name.partition(".")[0] for name in modules]
    own = max((index for index, name in enumerate(packages) if name in ("smoothout", "__main__")), default=-1)
    depth = 3 if isinstance(error, UnicodeDecodeError) else 1  # a config file that is not text fails in a codec
    last = packages[-depth:]
    by_plugin = "hydra_plugins" in packages[own + 1 :]
    no_folder = isinstance(error, OSError) and "hydra" in packages[own + 1 :]  # such as hydra.run.dir
    return not _HYDRA.isdisjoint(last) or by_plugin or no_folder
