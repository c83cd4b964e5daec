"""Configs as Hydra composes them."""

from __future__ import annotations

from typing import Any

from hydra import compose

from helpers.paths import CONFIGS
from smoothout.config.compose import to_plain_dict


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str, name: str = "train") -> dict[str, Any]:
    return to_plain_dict(compose(name, overrides=list(overrides)))
