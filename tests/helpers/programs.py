"""A script in a separate process, and the records that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.common import digits
from helpers.paths import ROOT

SCRIPT = ROOT / "scripts" / "train.py"
PLACES = ("data", "results", "checkpoints", "logs")
QUIET = ("threads=1", "tensorboard=false", "download=false")
SHORT = (*QUIET, "batch=large", "schedule.epochs=2")
Ended = tuple[int, list[str], list[str]]
Program = Callable[..., Ended]

# Runs a script that cannot import torch. (None in sys.modules would confuse SciPy.)
WITHOUT_TORCH = """
import runpy, sys
class NoTorch:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, NoTorch)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def start(*arguments: str, script: str = "train", stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start the script of that name in a separate process."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT.with_stem(script)), *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SMOOTHOUT_DATA": digits().name, "PYTHONPATH": path},
    )


def records(root: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / "results" / "train").glob("*.json"))}


def without_times(outcome: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a training without its times and machines."""
    measured = ("wall_seconds", "train_seconds", "peak_memory", "machines")
    kept = {name: value for name, value in outcome.items() if name not in measured}
    kept["curves"] = {name: curve for name, curve in outcome["curves"].items() if name != "seconds"}
    return kept


def fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("a bug")


def end_without_torch(script: str, *arguments: str, **places: str) -> subprocess.CompletedProcess[str]:
    """Run the script where it cannot import torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT.with_stem(script)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | places, check=False)


def without_torch(script: str, *arguments: str, **places: str) -> str:
    """What the script prints; it must end well."""
    ended = end_without_torch(script, *arguments, **places)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
