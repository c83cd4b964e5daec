"""Configs as Hydra composes them."""

from __future__ import annotations

from typing import Any

from helpers.paths import CONFIGS
from smoothout.config.compose import compose_config


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str, name: str = "train") -> dict[str, Any]:
    return compose_config(CONFIGS, name, overrides)
