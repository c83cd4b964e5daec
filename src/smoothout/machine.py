"""Errors that are the machine's: no room on a disk, no access to a file, no memory."""

from __future__ import annotations

import errno
import re

_NO_ROOM_NAMES = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOTDIR EEXIST ENAMETOOLONG"
_NO_ROOM = {getattr(errno, name) for name in _NO_ROOM_NAMES.split()}
_NO_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory")


def of_machine(error: BaseException) -> str | None:
    """What to do about a machine that has no room or no access to give; None where something else is wrong."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is not None:
        return f"{error.filename}: {error.strerror}; put this right, and the same command goes on"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        reason = " ".join(str(error).split())[:120]
        return f"out of memory: batch.ghost, or a smaller batch.size with batch.multiplier, takes less ({reason})"
    return None
