"""The tables in results/ are what their records give; `make tables` and `make pages` render all there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.paths import CONFIGS, PUBLISHED, ROOT, TABLES

from smoothout.config.compose import compose_config
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.pages import find_pages, listed_page
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.tables import stem

RESULTS = ROOT / "results"
LISTED: list[list[str]] = compose_config(CONFIGS, "verdicts", [])["pages"]
COMMITTED = sorted(path.stem for path in TABLES.glob("*.md"))
CAPTION = re.compile(r"^Protocol `(\w+)`, profile `(\w+)`, (\w+), seeds ([\d, ]+);", re.M)


def rendered_by_make() -> set[str]:
    """The stems of what `make tables` writes."""
    done = subprocess.run(["make", "-n", "tables"], cwd=ROOT, text=True, capture_output=True, check=True)
    stems = set()
    for line in done.stdout.splitlines():
        if "reproduce.py" in line:
            given = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
            assert given["run"] == "false"
            assert "scope.seeds" not in given
            scope = [
                given.get(f"scope.{key}", usual) for key, usual in (("protocol", "authors_code"), ("profile", "paper"))
            ]
            precision = given.get("scope.precision", "float32")
            stems |= {stem(name, *scope, precision) for name in chosen(given["table"])}
    return stems


def chosen(sweep: str) -> list[str]:
    """The tables of a list, or of Hydra's glob."""
    left_out = re.fullmatch(r"glob\(\*,exclude=\[(.*)\]\)", sweep)
    if not left_out:
        return sweep.split(",")
    names = [path.stem for path in (CONFIGS / "table").glob("*.yaml")]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in left_out[1].split(","))]


def test_make_tables_renders_every_table_that_is_there_and_every_one_of_the_papers() -> None:
    papers = {f"{path.stem}-authors_code-paper" for path in (CONFIGS / "table").glob("table*.yaml")}
    assert len(COMMITTED) > 10
    assert rendered_by_make() >= {*COMMITTED, *papers, "controls-authors_code-paper"}


def test_every_page_of_verdicts_that_is_there_is_listed() -> None:
    names = ("claims*.md", "causes*.md", "confirmation*.md", "keskar*.md", "jastrzebski*.md", "family*.md")
    paths = {path.name for name in names for path in RESULTS.glob(name)}
    assert {listed_page(CONFIGS, given).file for given in LISTED} == paths
    done = subprocess.run(["make", "-n", "pages"], cwd=ROOT, text=True, capture_output=True, check=True)
    assert "scripts/verdicts.py all_pages=true" in done.stdout


def told(folder: Path, name: str) -> tuple[str, str, pd.DataFrame]:
    """A table's files, without what is left to run: its cost depends on the device."""
    page, latex = ((folder / f"{name}{ending}").read_text(encoding="utf-8") for ending in (".md", ".tex"))
    return page.partition("## Not run")[0], latex, pd.read_csv(folder / f"{name}.csv").drop(columns="hours_to_run")


@pytest.mark.parametrize("name", COMMITTED)
def test_the_table_is_the_one_that_its_records_make(name: str, tmp_path: Path) -> None:
    page = (TABLES / f"{name}.md").read_text(encoding="utf-8")
    found = CAPTION.search(page)
    assert found
    protocol, profile, precision, seeds = found.groups()
    scope = RunSelection(protocol, profile, Precision(precision), tuple(map(int, seeds.split(", "))))
    table = compose_config(CONFIGS, "reproduce", [f"table={name.partition(f'-{protocol}-')[0]}"])["table"]
    folders = Folders(str(tmp_path), str(ROOT / "results"), str(tmp_path), str(tmp_path))
    runtime = Runtime(folders, torch.device("cpu"))
    any_seed = TablePlan(table, RunSelection(protocol, profile, Precision(precision)), CONFIGS, PUBLISHED)
    made = any_seed.with_choice(runtime).with_recorded_seeds(runtime)
    assert made.scope == scope, "other seeds are recorded"
    made.render(runtime).save(tmp_path)
    (old_page, old_latex, old), (new_page, new_latex, new) = told(TABLES, name), told(tmp_path, name)
    assert new_page == old_page
    assert new_latex == old_latex
    pd.testing.assert_frame_equal(new, old)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of every listed page by its file, as the records make it."""
    folder = str(tmp_path_factory.mktemp("place"))
    runtime = Runtime(Folders(folder, str(RESULTS), folder, folder), torch.device("cpu"))
    _, found = find_pages(listed_page(CONFIGS, []), [], LISTED, CONFIGS, PUBLISHED)
    tests = {page.config.file: page.claims.tests(runtime) for page in found}
    return {page.config.file: page.verdicts(tests, RESULTS).markdown() for page in found}


@pytest.mark.parametrize("given", LISTED, ids=" ".join)
def test_the_page_of_verdicts_is_the_one_that_its_records_make(given: list[str], pages: dict[str, str]) -> None:
    file = listed_page(CONFIGS, given).file
    assert pages[file] == (RESULTS / file).read_text(encoding="utf-8")
