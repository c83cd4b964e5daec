"""The figures of configs/figure/, for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

from helpers.paths import CONFIGS
from smoothout.config.compose import compose_config
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection


def config(name: str) -> dict[str, Any]:
    figure: dict[str, Any] = compose_config(CONFIGS, "reproduce", ["table=none", f"figure={name}"])["figure"]
    return figure


@cache  # composing takes a while
def figure_plan(name: str, **scope: Any) -> FigurePlan:
    return FigurePlan(config(name), RunSelection(**scope), CONFIGS)
