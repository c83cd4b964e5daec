"""The package: its public names, where each equation lives, and how long a file is."""

from __future__ import annotations

import ast
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.programs import without_torch

import smoothout
from smoothout.common.job_settings import KINDS

PACKAGE = ROOT / "src" / "smoothout"
EQUATIONS = PACKAGE / "README.md"  # has a table of tags and the functions that they are in


def test_the_public_names_are_listed_there_and_seen_by_people_and_by_type_checkers():
    for name in smoothout.__all__:
        assert getattr(smoothout, name).__name__ == name
        assert name in dir(smoothout)
        assert re.search(rf"\b{name}\b", smoothout.__doc__)
    seen = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert "__getattr__" not in [node.name for node in seen if isinstance(node, ast.FunctionDef)]


def tags() -> list[str]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                opening = re.match(r"\[([^\]]+)\]", ast.get_docstring(node) or "")
                if opening:
                    home = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
                    found.append((opening[1], f"{home}.{node.name}"))
    return found


def test_each_equation_stands_in_one_place_and_in_the_readmes_table():
    found = tags()
    listed = re.findall(r"^\| \[([^\]]+)\] .*\| `([\w.]+)` \|$", EQUATIONS.read_text(encoding="utf-8"), re.M)
    assert len({tag for tag, _ in found}) == len(found), "an equation is in two places"
    assert dict(listed) == dict(found)


def settings_classes() -> list[ast.ClassDef]:
    """The frozen dataclasses of the package."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py"))
    classes = (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    return [node for node in classes if "frozen=True" in map(ast.unparse, chain(*map(_keywords, node.decorator_list)))]


def _keywords(decorator: ast.expr) -> list[ast.keyword]:
    return decorator.keywords if isinstance(decorator, ast.Call) else []


def test_a_class_that_a_config_can_name_shares_its_name_with_no_other():
    """Records name settings by their class: another MLP would get the records of this one."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "configs").rglob("*.yaml"))
    named = {target for text in texts for target in re.findall(r"_target_: [\w.]*\.(\w+)", text)}
    names = [node.name for node in settings_classes()]
    assert {"MLP", "Sharpness", "Batch"} <= named
    assert [name for name in sorted(named & {*names}) if names.count(name) > 1] == []


def test_the_kinds_of_records_are_those_of_the_classes():
    assigned = (
        (ast.unparse(line.target), line.value)
        for node in settings_classes()
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    )
    assert {value.value for name, value in assigned if name == "kind" and isinstance(value, ast.Constant)} == KINDS


def test_no_file_is_longer_than_350_lines():
    paths = [path for folder in (PACKAGE, ROOT / "scripts", ROOT / "tests") for path in folder.rglob("*.py")]
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 350] == []


def test_the_package_shows_no_more_rooms_than_its_readme_can_explain():
    rooms = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(rooms) <= 13, rooms


def test_scripts_are_thin():
    paths = (ROOT / "scripts").glob("*.py")
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 70] == []


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_help_needs_no_torch(script: str):
    assert without_torch(script, "--help")


def test_a_table_and_a_page_of_verdicts_are_rendered_without_torch(tmp_path: Path):
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("tables", "figures"))
    places = {"SMOOTHOUT_RESULTS": str(tmp_path / "results")}
    assert "F1, MNIST, 6000" in without_torch("reproduce", "table=table2", "run=false", **places)
    assert "python scripts/train.py" in without_torch("reproduce", "table=table2", "plan=true", **places)
    assert "written: " in without_torch("verdicts", "claims=causes", **places)
