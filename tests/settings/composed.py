"""Configs as Hydra composes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose

from smoothout.config.compose import to_plain_dict

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str, name: str = "train") -> dict[str, Any]:
    return to_plain_dict(compose(name, overrides=list(overrides)))
