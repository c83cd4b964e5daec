"""A package that is not installed is named with the extra that brings it."""

from __future__ import annotations

import re
import tomllib

import pytest
from helpers.paths import CONFIGS

from smoothout.common.errors import OF_THE_REPORT, missing_package

EXTRAS = tomllib.loads((CONFIGS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize(
    ("name", "extra"), [("hydra", "experiments"), ("plotly.graph_objects", "report"), ("jinja2", "report")]
)
def test_the_line_names_the_extra(name: str, extra: str) -> None:
    line = missing_package(ModuleNotFoundError(name=name))
    assert line == f"{name} is not installed; it belongs to smoothout's extra [{extra}]: pip install '.[{extra}]'"


def test_what_the_report_needs_is_in_its_extra() -> None:
    listed = {re.split(r"[<>=\[]", entry)[0].replace("markdown-it-py", "markdown_it") for entry in EXTRAS["report"]}
    assert listed | {"markupsafe"} == set(OF_THE_REPORT), "Jinja2 brings MarkupSafe"
