"""Write files atomically: they appear complete or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path next to ``path`` to write to; at the end of the block it is synced and renamed to ``path``.

    After an exception the new file is removed, and an OSError names ``path``. A killed process leaves its ``.part``
    file, but never an incomplete ``path``. Several threads, processes and machines may write the same ``path``: the
    last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process ID alone is not unique among the threads of a process, or among containers that share a folder.
    part = path.with_name(f"{path.name}.part{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno is not None:  # the error of a full disk names no file
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # a read-only file system refuses this, too
            part.unlink()


def check_name(key: str, name: str) -> None:
    """Raise ValueError, which names the setting ``key``, unless ``name`` can be part of file names."""
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"{key}: must be letters, digits and . + - _, as part of file names, not {name!r}")


def ensure_writable(path: Path) -> None:
    """Create the folder of ``path`` and remove files of killed writers. The caller must be the only writer.

    Raises OSError if the folder is read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        number = errno.EROFS if os.statvfs(path.parent).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(path.parent))
    for part in path.parent.glob(f"{path.name}.part*"):
        part.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
