"""Compose a config with Hydra, into plain values; composed configs are cached.

Hydra takes a tenth of a second per config, and a table has dozens of rows. So composed configs are kept in this process
and in .cache/configs/ next to the folder of configs, which may be deleted at any time. Environment variables are filled
in afterwards, so that a config need not be composed again for other folders.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smoothout.common.errors import ConfigError, config_errors, needs_experiments
from smoothout.common.files import atomic_write_text
from smoothout.config.moved import current_overrides, rename_keys, rename_nested_overrides

if TYPE_CHECKING:
    from omegaconf import DictConfig

_FORMAT = 2  # of the files in the cache
_RESOLVER = re.compile(r"\$\{([\w.]+):")
_VARIABLE = re.compile(r"\$\{oc\.env:(\w+),([\w./-]+)\}")  # with its default
_DECISIVE = re.compile(r"\$\{[^}]*\$\{oc\.env:|^ *- .*oc\.env:", re.MULTILINE)  # variables that more may depend on
# Keys of overrides that a source run does not inherit
_NOT_SHARED = {"init_from", "analysis", "second_run", "hydra", "grid", "strengths"}
_GLOBAL = ("experiment", "protocol", "sweep")  # groups whose files set the keys of others
_KEY = re.compile(r"[+~]*(\w*)")
_PLAIN = re.compile(r"[\w/.:@%+-]+", re.ASCII)  # URLs that need no quotes in an override
_PURE = {"oc.env", "oc.select", "oc.create", "oc.decode", "choices"}  # resolvers of files and variables alone


ConfigFolders = Path | tuple[Path, ...]  # configs/ alone, or followed by folders of a user's own, see --config-dir


class _Files(NamedTuple):
    """What the folder of configs holds."""

    digest: str
    can_be_cached: bool  # whether all depends on the files alone, if the values of variables are filled in later


def compose_config(folders: ConfigFolders, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose ``name`` in ``folders`` with ``overrides`` to plain values, completed by `with_source`.

    Raises ConfigError if the first folder has no such file, and for overrides or files that Hydra cannot use.
    """
    folder, *added = _listed(folders)
    if not (folder / f"{name}.yaml").is_file():
        raise ConfigError(
            f"configs: {folder.absolute()} has no {name}.yaml; must be the folder configs/ of this repository"
        )
    check_added(folders)
    paths = [path for each in (folder, *added) for path in _yaml_files(each)]
    content = _read_files(folder, frozenset((path, path.stat().st_mtime_ns) for path in paths))
    on_disk = content.can_be_cached and not any(
        "${" in override or override.startswith("hydra.") for override in overrides
    )
    variables = None if on_disk else frozenset(os.environ.items())
    searched = (*current_overrides(overrides), *search_path(folders))
    with needs_experiments():
        values = _composed(folder.resolve(), name, searched, content.digest, variables)
    return with_source(_with_variables(values), folders, overrides)


def search_path(folders: ConfigFolders) -> list[str]:
    """The override by which a program finds what ``folders`` add to configs/; none if they add nothing."""
    urls = (f"file://{path.absolute()}" for path in _listed(folders)[1:])
    added = [url if _PLAIN.fullmatch(url) else repr(url) for url in urls]
    return [f"hydra.searchpath=[{','.join(added)}]"] if added else []


def check_added(folders: ConfigFolders) -> None:
    """Raise ConfigError if a folder that is added to configs/ is missing, or has a file that Hydra would not use."""
    main, *added = _listed(folders)
    for folder in added:
        if not folder.is_dir() or "\\" in str(folder) or "${" in str(folder):
            raise ConfigError(f"configs: {str(folder)!r} must be a folder, without \\ and ${{ in its name")
        for path in _yaml_files(folder):
            ours = main / path.relative_to(folder)
            if ours.is_file() and ours.read_bytes() != path.read_bytes():
                raise ConfigError(f"configs: {path} has the name of a file in configs/, which hides it; rename it")


def _yaml_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.yaml") if path.is_file()]


def config_names(folders: ConfigFolders, group: str) -> list[str]:
    """The choices of a group of configs."""
    paths = (path for folder in _listed(folders) for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in paths if path.is_file()})


def _listed(folders: ConfigFolders) -> tuple[Path, ...]:
    if not folders:
        raise ConfigError("configs: must begin with the folder configs/ of this repository")
    return (folders,) if isinstance(folders, Path) else folders


def with_source(values: dict[str, Any], folders: ConfigFolders, overrides: Sequence[str]) -> dict[str, Any]:
    """Replace the overrides in ``init_from.run`` of ``values`` by the composed config of that run.

    The run has the ``overrides`` that made ``values``, without those of ``init_from`` and of an analysis, followed by
    its own. It starts from random weights unless its own overrides say otherwise, even if a file of configs/ sets
    ``init_from``. Raises ConfigError if ``init_from.run`` is not a list of overrides, or cannot be composed.
    """
    start = values.get("init_from")
    if not isinstance(start, dict) or start.get("run") is None:
        return values
    if not isinstance(start["run"], list) or not all(isinstance(override, str) for override in start["run"]):
        raise ConfigError(
            "init_from.run: must be null (random weights) or a list of overrides, such as ['batch=small'], not"
            f" {start['run']!r}"
        )
    shared = without_keys(overrides, _NOT_SHARED)
    own = ["init_from.run=null", *start["run"]]
    with config_errors("init_from.run: ", of=ConfigError):
        values["init_from"] = start | {"run": compose_config(folders, "train", [*shared, *own])}
    return values


def key_of(override: str) -> str:
    """The first part of the key of an override of Hydra: ``batch`` of batch=small, ++batch.size=2 and ~batch."""
    found = _KEY.match(override)
    return found[1] if found else ""


def without_keys(overrides: Sequence[str], keys: Container[str]) -> list[str]:
    """The ``overrides`` whose `key_of` is not among ``keys``."""
    return [override for override in overrides if key_of(override) not in keys]


@lru_cache(maxsize=4096)
def _composed(
    folder: Path,
    name: str,
    overrides: tuple[str, ...],
    files: str,
    variables: frozenset[tuple[str, str]] | None,
) -> dict[str, Any]:
    """As `_ask_hydra`; ``files`` is a digest of all files.

    If ``variables`` is None, the result does not depend on environment variables, whose expressions it keeps, and is
    cached on disk.
    """
    if variables is not None:
        return _ask_hydra(folder, name, overrides)
    path = _cache_path(folder, name, overrides, files)
    with suppress(OSError, ValueError):  # no such file, or a broken one
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values:
            return values
    with warnings.catch_warnings(record=True) as caught:
        values = _ask_hydra(folder, name, overrides, keep_variables=True)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    if not caught:  # otherwise the warning would not appear again
        _store(path, values)
    return values


def _with_variables(values: Any) -> Any:
    """A copy of ``values`` in which environment variables are filled in."""
    if isinstance(values, dict):
        return {key: _with_variables(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_variables(value) for value in values]
    if isinstance(values, str):
        return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[2]), values)
    return values


def _ask_hydra(folder: Path, name: str, overrides: tuple[str, ...], *, keep_variables: bool = False) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir  # noqa: PLC0415 -- not needed if all configs are cached
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415
    from hydra.version import VersionBase  # noqa: PLC0415

    from smoothout.config.hydra_errors import HYDRA_ERRORS, format_hydra_error  # noqa: PLC0415

    # The caller may use Hydra too: its state and its version base are restored.
    running, base, collecting = GlobalHydra.instance(), VersionBase.instance(), gc.isenabled()
    their_hydra, their_base = running.hydra, base.getbase()
    running.clear()
    gc.disable()  # garbage collection would take a fifth of the time and find nothing
    try:
        with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            config = compose(config_name=name, overrides=list(overrides))
        with _variables_kept() if keep_variables else nullcontext():
            return to_plain_dict(config)
    except HYDRA_ERRORS as error:
        raise ConfigError(format_hydra_error(error, overrides)) from error
    finally:
        if collecting:
            gc.enable()
        GlobalHydra.set_instance(running)
        running.hydra, base.version_base = their_hydra, their_base


@contextmanager
def _variables_kept() -> Iterator[None]:
    """Inside, OmegaConf leaves environment variables as they are written."""
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.resolvers import oc  # noqa: PLC0415

    OmegaConf.register_new_resolver("oc.env", "${{oc.env:{},{}}}".format, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def to_plain_dict(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values: interpolations resolved, keys of earlier versions renamed.

    Raises ConfigError for a file of a group that sets the keys of others, but has set them under its own name.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415

    rename_keys(config)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    for group in _GLOBAL:
        if group in values:
            raise ConfigError(f"{group}: its file must begin with the line '# @package _global_'")
    return rename_nested_overrides({str(key): value for key, value in values.items()})


def _cache_path(folder: Path, name: str, overrides: tuple[str, ...], files: str) -> Path:
    """The cache file of a composed config, named by a digest of its inputs."""
    circumstances = [_FORMAT, version("hydra-core"), version("omegaconf"), name, overrides]
    digest = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()
    # Configs of other folders are kept apart: their files have another digest, and only one is kept of each.
    kind = "configs_added" if any(override.startswith("hydra.searchpath=") for override in overrides) else "configs"
    return folder.parent / ".cache" / kind / files / f"{digest}.json"


@lru_cache(maxsize=16)
def _read_files(folder: Path, stamped: frozenset[tuple[Path, int]]) -> _Files:
    contents = {
        os.path.relpath(path, folder): path.read_text("utf-8", "replace")
        for path in sorted(path for path, _ in stamped)
    }
    text = "\n".join(contents.values())
    pure = set(_RESOLVER.findall(text)) <= _PURE
    defaults = [default for _, default in _VARIABLE.findall(text)]
    filled_in = len(defaults) == text.count("oc.env") and "null" not in map(str.lower, defaults)  # None is no text
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    return _Files(digest, pure and filled_in and not _DECISIVE.search(text))


def _store(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to the cache, and delete those of other versions of the files; ignores a read-only folder."""
    text = json.dumps(values)
    if json.loads(text) != values:  # JSON has no keys that are numbers
        return
    with suppress(OSError):
        if not path.parent.exists() and path.parent.parent.exists():
            for old in path.parent.parent.iterdir():
                shutil.rmtree(old, ignore_errors=True)
        atomic_write_text(path, text)
