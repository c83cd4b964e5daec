"""Compose a config by Hydra, into plain values."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from smoothout.common.errors import ConfigError


def compose_config(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config ``name`` under ``folder`` with ``overrides``, resolved to plain values.

    Hydra takes a tenth of a second, and tables share rows: it is asked again only where a file or a place changed.
    Raises SettingsError for a folder without configs.
    """
    files = [(path, path.stat().st_mtime_ns) for path in folder.rglob("*.yaml")]
    if not files:
        raise ConfigError(f"configs: {folder} must be the folder of this repository's configs, and has none")
    places = [(key, value) for key, value in os.environ.items() if key.startswith("SMOOTHOUT_")]
    return copy.deepcopy(_composed(folder.resolve(), name, tuple(overrides), frozenset([*files, *places])))


@lru_cache(maxsize=4096)
def _composed(folder: Path, name: str, overrides: tuple[str, ...], _circumstances: frozenset[Any]) -> dict[str, Any]:
    GlobalHydra.instance().clear()  # a program of Hydra's own may be running
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        return to_plain_dict(compose(config_name=name, overrides=list(overrides)))


def to_plain_dict(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
