"""The library as `pip install smoothout` brings it: with torch, NumPy and SciPy alone, outside of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

USE = """
import sys
import helpers.without_extras
before = set(sys.modules)
import smoothout
assert set(sys.modules) - before <= {"smoothout", "__future__"}
from pathlib import Path
from smoothout import *
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
batches = [(torch.randn(8, 4), torch.randint(2, (8,)))]
with SmoothOut(model, a=0.1):
    torch.nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
print(sharpness(model, batches, torch.nn.functional.cross_entropy, eps=1e-3))
from smoothout.config.compose import compose_config
from smoothout.data.datasets import load
for use in lambda: trained([]), lambda: compose_config(Path(sys.argv[1]), "train", []), lambda: load("digits", Path()):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)
files = [(Path(smoothout.__file__).parent / name).exists() for name in ("py.typed", "integrations/README.md")]
print(Path(smoothout.__file__).parent, all(files))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files alone."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "src", folder / "sources" / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "sources")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "sources"]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "installed", wheel], check=True)
    return folder / "installed"


def run(installed: Path, *arguments: str | Path) -> list[str]:
    """What Python prints with the wheel, the tests' helpers and this environment's packages on its path."""
    path = os.pathsep.join(map(str, (installed, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # Hydra is one
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=installed, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_wheel_needs_no_extra_and_says_what_does(installed: Path) -> None:
    configs = shutil.copytree(ROOT / "configs", installed.parent / "configs")  # none of them composed before
    measured, *refused, place = run(installed, "-c", USE, configs)
    assert "%" in measured
    assert [
        line.partition(" is not installed; it belongs to smoothout's extra [experiments]")[0] for line in refused
    ] == [
        "rich",
        "hydra",
        "sklearn",
    ]
    assert place == f"{installed / 'smoothout'} True"


def test_the_librarys_tests_run_on_the_wheel(installed: Path) -> None:
    """All are collected; one file stands for the rest."""
    unit, settings = ROOT / "tests" / "unit", ROOT / "pyproject.toml"
    rooms = [unit / room for room in ("nn", "analysis", "common")]
    pytest_ = (
        "-m",
        "pytest",
        "-c",
        settings,
        "-o",
        "pythonpath=",
        "-p",
        "no:cacheprovider",
        "-p",
        "helpers.without_extras",
    )
    assert "tests collected" in run(installed, *pytest_, "--collect-only", *rooms)[-1]
    assert " passed" in run(installed, *pytest_, "-v", unit / "nn" / "test_evaluation.py")[-1]
