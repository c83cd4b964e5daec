"""Errors of the machine: a full disk, a missing permission, too little memory, a package that is not installed."""

from __future__ import annotations

import errno
import re

from smoothout.common.errors import missing_package, one_line

_NO_ROOM_NAMES = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOTDIR EEXIST ENAMETOOLONG"
_NO_ROOM = {getattr(errno, name) for name in _NO_ROOM_NAMES.split()}
_NO_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory|STATUS_ALLOC_FAILED")
_OF_A_GPU = re.compile("CUDA|CUBLAS|CUDNN|HIP")


def machine_error_hint(error: BaseException) -> str | None:
    """A hint for disk-full, permission, out-of-memory and import errors; None for any other error."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("smoothout"):
        return missing_package(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        place = error.filename or "a file, or stdout"
        return f"{place}: {error.strerror}; fix this and rerun the same command to resume"
    if is_out_of_memory(error):
        reason = one_line(error, 120)
        ways = ["batch.ghost", "a smaller batch.size with batch.multiplier"]
        ways += ["engine.concurrent_trainings=1", "engine.launch=eager"] if _OF_A_GPU.search(str(error)) else []
        return f"out of memory: use {', '.join(ways[:-1])} or {ways[-1]} ({reason})"
    return None


def is_out_of_memory(error: object) -> bool:
    """Whether ``error`` reports that the memory of the machine or a device is exhausted."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
