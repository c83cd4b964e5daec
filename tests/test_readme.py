"""README says what is true: its commands compose, its numbers are the rendered table's, its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from smoothout.settings import compose_config

ROOT = Path(__file__).resolve().parent.parent
PATHS = [ROOT / "README.md", *(ROOT / "configs").glob("*.yaml")]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PATHS}
README = TEXTS["README.md"]


def commands() -> list[str]:
    found = [line for text in TEXTS.values() for line in re.findall(r"^ *(python scripts/.*=.*)$", text, re.M)]
    return sorted({line.partition("  #")[0].strip() for line in found})


def first_choice(override: str) -> str:
    """Of a sweep ``key=a,b`` the first point; a list ``key=[a,b]`` stays."""
    return override if "[" in override else override.partition(",")[0]


def test_there_are_commands_to_check():
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_composes(command):
    _, script, *overrides = shlex.split(command, comments=True)
    kept = [first_choice(o) for o in overrides if o != "-m" and not o.startswith("hydra/")]
    assert compose_config(ROOT / "configs", Path(script).stem, kept)


def test_every_link_and_picture_is_there():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z][\w-]*)", README):
        stem = re.sub(r"(reproduce|show|figure)-\w+", r"\1-%", target)
        assert re.search(rf"^{re.escape(stem)}:", makefile, re.M), target


def test_the_numbers_shown_are_those_of_the_rendered_table():
    for name, block in re.findall(r"<!-- (\S+): \w+ -->\n(.*?)<!-- end -->", README, re.S):
        rendered = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8").splitlines()
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert lines
        assert [line for line in lines if line not in rendered] == []
