"""Records: one JSON file per job, named by the digest of the job's settings and inputs."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smoothout.common.errors import RecordError, one_line
from smoothout.common.files import atomic_write_text, ensure_writable
from smoothout.results.digest import canonical_settings
from smoothout.results.digest import digest as digest_of

FORMAT = 1
SETTLED = 2_000_000_000  # nanoseconds after a folder's last change before its listing is cached
_LIST = re.compile(r"\[[^][{}\"]*\]")  # a list of numbers, which is written on one line


@dataclass(frozen=True)
class Record:
    """A job and its outcome."""

    kind: str  # "train", "sharpness", ...: the folder
    name: str  # the file's name without its ending: a readable slug and eight digits of the digest
    digest: str  # SHA-256 of ``identity``
    identity: dict[str, Any]  # kind, numerics, digests of the inputs, and the settings that differ from their defaults
    settings: dict[str, Any]  # all settings that affect the outcome
    labels: dict[str, Any]  # readable labels: model, data, method, batch, seed
    inputs: list[str]  # names of the records of the job's inputs
    outcome: dict[str, Any]  # the results; a number that is not finite is None
    environment: dict[str, Any]  # versions, device, threads, commit
    format: int = FORMAT


@dataclass(frozen=True)
class RecordStore:
    """The records under one results folder: <folder>/<kind>/<name>.json."""

    folder: Path

    def find(self, kind: str, digest: str, settings: Any) -> Record | None:
        """The record of the job with that digest and those ``settings`` (a dataclass), or None.

        Raises RecordError as `get` does, and if a default setting has changed since the record was made.
        """
        record = self.get(kind, digest)
        if record is not None and not _agrees(record.settings, canonical_settings(settings)):
            raise RecordError(
                f"record: {record.name} was made with other default settings than this version has; compare its"
                " settings with the current config, or delete it to make it again"
            )
        return record

    def get(self, kind: str, digest: str) -> Record | None:
        """The record of the job with that digest, or None. Raises RecordError if the file cannot be used."""
        name = _names_by_digest(self.folder / kind).get(digest[:8])
        if name is None:
            return None
        path = self.folder / kind / name
        record = read_record(path)
        if record.digest != digest:
            raise RecordError(f"record: {path} holds another job ({record.digest[:8]}, not {digest[:8]})")
        return record

    def records(self, kind: str) -> list[Record]:
        """All records of a kind, by name."""
        return [read_record(path) for path in sorted((self.folder / kind).glob("*.json"))]

    def iter_readable(self, kind: str) -> Iterator[Record]:
        """The records of a kind that can be read; others are skipped."""
        for path in sorted((self.folder / kind).glob("*.json")):
            with suppress(RecordError, OSError):  # another process may have deleted it
                yield read_record(path)

    def write(self, record: Record) -> Record:
        """Write ``record`` atomically and return it as read back; an existing record is kept."""
        existing = self.get(record.kind, record.digest)
        if existing is not None:
            return existing
        content = json.loads(json.dumps(_finite(asdict(record))))
        content["checksum"] = digest_of(content)
        path = self.folder / record.kind / f"{record.name}.json"
        ensure_writable(path)
        atomic_write_text(path, _LIST.sub(_in_one_line, json.dumps(content, indent=1)) + "\n")
        return read_record(path)

    def lock(self, kind: str, digest: str) -> FileLock:
        """The lock of the job with that digest, see `lock`. Raises RecordError."""
        return lock(self.folder, "results", f"{kind}-{digest[:8]}")


def check_same_data(records: Iterable[Record]) -> None:
    """Raise RecordError if two trainings among ``records`` saw different data of the same name."""
    first: dict[str, Record] = {}
    for record in records:
        if (data := record.outcome.get("data_sha256")) is None:  # an analysis checks the data of its trainings
            continue
        other = first.setdefault(record.labels["data"], record)
        if other.outcome["data_sha256"] != data:
            raise RecordError(
                f"record: {other.name} and {record.name} were trained on different data of the name"
                f" {record.labels['data']}; delete the one that is out of date, with its checkpoint, to train it again"
            )


def lock(folder: Path, setting: str, name: str) -> FileLock:
    """A lock that one process holds at a time, not yet acquired; it is released if the process dies.

    ``folder`` is the value of ``folders.<setting>``. Raises RecordError if it cannot be written, or its file system has
    no locks.
    """
    path = folder / ".locks" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), suppress(Timeout):
            warnings.simplefilter("error")  # filelock's fallback is not released when its process dies
            FileLock(path).acquire(timeout=0).lock.release()
    except (OSError, NotImplementedError, UserWarning) as error:
        reason = getattr(error, "strerror", None) or "its file system has no locks"
        raise RecordError(
            f"folders.{setting}: {folder} cannot be used ({reason});"
            " it must be a folder that can be written, on a file system with locks"
        ) from error
    return FileLock(path)


def _names_by_digest(folder: Path) -> dict[str, str]:
    """The files in a folder of records by the eight digits in their names.

    A folder is listed again when it has changed. Time stamps are coarse and two changes may share one, so a listing is
    cached only if the last change was a while ago.
    """
    try:
        changed = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    recent = abs(time.time_ns() - changed.st_mtime_ns) < SETTLED
    return _listed.__wrapped__(folder) if recent else _listed(folder, changed.st_ino, changed.st_mtime_ns)


@lru_cache(maxsize=64)
def _listed(folder: Path, *_version: int) -> dict[str, str]:
    names = sorted((path.name for path in folder.glob("*-????????.json")), reverse=True)
    return {name[-13:-5]: name for name in names}  # of several files with the same digits, the first by name


def read_record(path: Path) -> Record:
    """Read the record in ``path``. Raises RecordError if it is damaged, was edited, or has another format.

    A process reads and checks a file once, and again if it has changed. Do not modify the result.
    """
    status = path.stat()
    return _read(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, *_version: int) -> Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
        checksum = content.pop("checksum")
        if content["format"] != FORMAT:
            raise RecordError(f"record: {path} has format {content['format']}; this version reads format {FORMAT}")
        record = Record(**content)
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
        reason = one_line(error, 120)
        raise RecordError(
            f"record: {path} is damaged or not a record ({reason}); delete it to make it again"
        ) from error
    if checksum != digest_of(content) or record.digest != digest_of(record.identity):
        raise RecordError(f"record: {path} was changed after it was made; restore it, or delete it to make it again")
    return record


def _agrees(recorded: Any, current: Any) -> bool:
    """Whether every setting in ``recorded`` has the same value in ``current``, which may have settings added later."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        return all(key in current and _agrees(value, current[key]) for key, value in recorded.items())
    return bool(recorded == current)


def find_non_json_type(value: Any) -> str | None:
    """The name of a type within ``value`` that JSON does not have, or None."""
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return next((wrong for part in parts if (wrong := find_non_json_type(part))), None)
    return None if value is None or isinstance(value, str | int | float) else type(value).__name__


def _in_one_line(match: re.Match[str]) -> str:
    return re.sub(r"\s*\n\s*", " ", match[0])  # strings keep their spaces, because JSON has no line breaks in them


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(value: Any) -> Any:
    """``value`` with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
