"""The pictures of configs/figure/, for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from smoothout.config.compose import compose_config
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config(name: str) -> dict[str, Any]:
    figure: dict[str, Any] = compose_config(CONFIGS, "reproduce", ["table=none", f"figure={name}"])["figure"]
    return figure


@cache  # composing takes a while
def picture(name: str, **scope: Any) -> FigurePlan:
    return FigurePlan(config(name), RunSelection(**scope), CONFIGS)
