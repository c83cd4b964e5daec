"""The house: who may import whom, where each equation lives, and how long a file is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import smoothout

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "smoothout"

# A module may import from its own folder and from the levels above it in this list.
LEVELS = [
    ["choices", "files", "formats", "identity", "machine", "randomness", "parameters", "flat", "vision", "statistics"],
    ["perturbation", "batchnorm", "ghost", "models", "data", "ledger", "progress", "journal"],
    ["evaluation", "curvature", "copies", "tables", "figures"],
    ["training", "analysis", "strength", "words"],
    ["roles"],
    ["environment", "settings"],
    ["work", "bench"],
    ["runs", "place", "costs"],
    ["jobs"],
    ["entries", "layout", "loading"],
    ["reproduction", "choosing"],
    ["pictures", "quantities"],
    ["claims"],
    ["verdicts"],
    ["reliability", "mistakes"],
    ["cli"],
    ["cluster"],
    ["terminal"],
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
TORCH_FREE = {"files", "formats", "identity", "machine", "ledger", "tables", "figures", "words"}
HYDRA_FREE = {name for names in LEVELS[:5] for name in names}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "smoothout" else {f"smoothout.{a.name}" for a in node.names}
    return names


def test_the_public_names_are_listed_there_and_seen_by_people_and_by_type_checkers():
    for name in smoothout.__all__:
        assert getattr(smoothout, name).__name__ == name
        assert name in dir(smoothout)
        assert re.search(rf"\b{name}\b", smoothout.__doc__)
    seen = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert "__getattr__" not in [node.name for node in seen if isinstance(node, ast.FunctionDef)]


def modules() -> list[tuple[str, Path]]:
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in sorted(paths)]


def test_every_module_has_its_level():
    assert {name for name, _ in modules()} == set(LEVEL)


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).rpartition("smoothout/")[2])
def test_a_module_imports_only_from_levels_below_or_its_own_folder(name, path):
    for imported in imports(path):
        if imported.startswith("smoothout."):
            other = imported.split(".")[1]
            assert other == name or LEVEL[other] < LEVEL[name], imported


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).rpartition("smoothout/")[2])
def test_the_library_knows_nothing_of_hydra_and_readers_nothing_of_torch(name, path):
    roots = {imported.split(".")[0] for imported in imports(path)}
    if name in HYDRA_FREE:
        assert not roots & {"hydra", "omegaconf"}
    if name in TORCH_FREE:
        assert "torch" not in roots


def tags() -> list[str]:
    found = []
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                opening = re.match(r"\[([^\]]+)\]", ast.get_docstring(node) or "")
                if opening:
                    home = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
                    found.append((opening[1], f"{home}.{node.name}"))
    return found


def test_each_equation_stands_in_one_place_and_in_the_readmes_table():
    found = tags()
    listed = re.findall(r"^\| \[([^\]]+)\] .*\| `([\w.]+)` \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len({tag for tag, _ in found}) == len(found), "an equation stands in two places"
    assert dict(listed) == dict(found)


def test_no_file_is_longer_than_350_lines():
    paths = [path for folder in (PACKAGE, ROOT / "scripts", ROOT / "tests") for path in folder.rglob("*.py")]
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 350] == []


def test_scripts_are_thin():
    paths = (ROOT / "scripts").glob("*.py")
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 60] == []
