"""The examples in the package's docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from helpers.paths import ROOT

SOURCE = ROOT / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in (SOURCE / "smoothout").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_main_measures_have_an_example():
    assert {f"smoothout.analysis.{name}" for name in ("sharpness", "interpolation", "hessian")} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
