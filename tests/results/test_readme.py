"""README and findings are true: code runs, commands compose, numbers are the rendered tables', files are there."""

from __future__ import annotations

import copy
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from torch import nn

from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment

PAGES = [ROOT / "README.md", ROOT / "results" / "findings.md"]
TEXTS = {path: path.read_text(encoding="utf-8") for path in (*PAGES, *(ROOT / "configs").glob("*.yaml"))}
README = TEXTS[PAGES[0]]


def commands() -> list[str]:
    shown = r"^ *(?:python|torchrun .*?) (scripts/.*=.*)$"
    found = [line for text in TEXTS.values() for line in re.findall(shown, text, re.M)]
    return sorted({line.partition("  #")[0].strip() for line in found})


def made() -> list[str]:
    """What README has make do with settings, and its other targets that run a program with some."""
    given = [line.partition("  #")[0].strip() for line in re.findall(r"^make (\S+ .*=.*)$", README, re.M)]
    return [*given, "quickstart", "reproduce-table2", "show-table2", "figure-f1", "choose-strength", "causes", "data"]


def first_choice(override: str) -> str:
    """Of a sweep ``key=a,b`` the first point; a list ``key=[a,b]`` stays."""
    return override if "[" in override else override.partition(",")[0]


def compose_and_build(command: str) -> None:
    """Raise where the program ``scripts/NAME.py SETTINGS`` would not take its settings."""
    script, *overrides = shlex.split(command, comments=True)
    kept = [first_choice(o) for o in overrides if o != "-m" and not o.startswith("hydra/")]
    config = compose_config(ROOT / "configs", Path(script).stem, kept)
    if "model" in config:
        build_experiment(config)
    for key in ("analysis", "grid", "claim_scope", "engine", "folders", "data"):
        if key in config and isinstance(config[key], dict):
            build(config[key], key)
    if "scope" in config:
        build(config["scope"] | {"seeds": config["scope"]["seeds"] or [0]}, "scope")


def test_there_are_commands_to_check():
    assert len(commands()) > 10
    assert len(made()) > 8


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_composes(command):
    compose_and_build(command)


@pytest.mark.parametrize("target", made())
def test_what_make_runs_composes(target):
    done = subprocess.run(["make", "-n", *shlex.split(target)], cwd=ROOT, text=True, capture_output=True, check=True)
    lines = re.findall(r"python (scripts/\S+\.py.*)", done.stdout.replace("\\\n", " "))
    assert lines
    for line in lines:
        compose_and_build(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXTS[page])
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z][\w-]*)", README):
        stem = re.sub(r"(reproduce|show|figure)-[\w-]+", r"\1-%", target)
        assert re.search(rf"^{re.escape(stem)}:", makefile, re.M), target


def test_the_section_on_gpus_begins_with_their_check():
    first = re.search(r"^\*\*GPU\.\*\*.*?```sh\n(.*?)$", README, re.M | re.S)
    assert first[1].split("#")[0].strip() == "make check-gpu"
    command = subprocess.run(["make", "-n", "check-gpu"], cwd=ROOT, text=True, capture_output=True, check=True)
    assert "python scripts/check_gpu.py" in command.stdout


HEADINGS = {  # of a rendered table's section, by the name that a page's block of its rows has
    "accuracy": "Test accuracy in %, best epoch",
    "late": "Test accuracy in %, median of the last quarter of the epochs",
    "last": "Test accuracy in %, last epoch",
    "recomputed": "Test accuracy in %, last epoch, running averages recomputed",
    "converged": "Sharpness in %, convention `converged`",
}
BLOCKS = {page: re.findall(r"<!-- (\S+): (\w+) -->\n(.*?)<!-- end -->", TEXTS[page], re.S) for page in PAGES}


def section(name: str, block: str) -> list[str]:
    """The lines of the rendered table ``name`` that a page's ``block`` is of."""
    rendered = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"^## {re.escape(HEADINGS[block])}\n(.*?)(?=^## |\Z)", rendered, re.M | re.S)
    return found.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_numbers_shown_are_those_of_the_rendered_tables_section(page):
    assert BLOCKS[page]
    for name, block, text in BLOCKS[page]:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert lines
        assert [line for line in lines if line not in section(name, block)] == []


def test_every_section_shown_is_another():
    blocks = BLOCKS[PAGES[1]]
    assert {block for _, block, _ in blocks} == set(HEADINGS)
    headers = [section(name, block) for name, block, _ in blocks]
    assert all(one != other for i, one in enumerate(headers) for other in headers[:i])


# The library


@pytest.fixture
def ran() -> dict[str, Any]:
    """What the code blocks leave behind, run one after the other on a small network with BatchNorm."""

    def examples(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.randn(count, 4), torch.randint(0, 3, (count,))) for _ in range(3)]

    model, other = (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2))
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names: dict[str, Any] = {"model": model, "model_a": model, "model_b": other, "optimizer": optimizer, "start": start}
    names |= {"loader": examples(8), "batches": examples(16), "held_out": examples(16)}
    for block in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S):
        exec(block, names)
    return names


def test_the_code_that_is_shown_runs_as_it_stands_and_gives_what_it_says(ran):
    assert not all(torch.equal(ran["start"][name], tensor) for name, tensor in ran["model"].state_dict().items())
    assert ran["result"].value > 0
    assert ran["loss"].isfinite()
    assert (ran["way"][0].alpha, ran["way"][-1].alpha) == (-1.0, 2.0)
    assert all(math.isfinite(point.loss) for point in ran["way"])
    assert [point.loss_error is not None for point in ran["noisy"]] == [True] * 3
    assert ran["noisy"][0].loss_error == 0.0 < ran["noisy"][1].loss_error
    assert {len(point.losses) for point in ran["around"]} == {5}


def test_the_density_that_is_shown_holds_every_eigenvalue(ran):
    top, grid, density = ran["top"], ran["grid"], ran["density"]
    assert list(top.values) == sorted(top.values, reverse=True)
    assert len(top.values) == 3
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=0.02)
    ritz = [value for values in ran["spectrum"].ritz for value in values]
    width = 0.01 * ran["reach"]
    assert all(min(abs(value - one) for one in ritz) < width for value in top.values)
