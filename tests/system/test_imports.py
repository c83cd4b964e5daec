"""Modules that read and render records import neither torch nor SciPy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT, SCRIPTS

import smoothout


def modules(room: str) -> list[str]:
    package = Path(smoothout.__file__).parent
    parts = [path.relative_to(package.parent).with_suffix("").parts for path in (package / room).rglob("*.py")]
    return [".".join(part for part in names if part != "__init__") for names in parts]


@pytest.mark.parametrize(
    ("room", "blocked"), [("results", ["torch", "scipy", "hydra", "omegaconf"]), ("reproduction", ["torch", "scipy"])]
)
def test_records_are_read_and_rendered_without_torch(room: str, blocked: list[str]) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\nimport {', '.join(modules(room))}"
    subprocess.run([sys.executable, "-c", program], check=True)


BARE = """
import sys
for name in ("PIL", "torchvision", "sklearn", "joblib", "matplotlib", "submitit", "tabulate"):
    sys.modules[name] = None
from smoothout.benchmark.gpu_check import program
assert program.checks(False)
"""


def test_it_needs_only_what_trainings_need() -> None:
    subprocess.run([sys.executable, "-c", BARE], check=True, cwd=ROOT)


def test_help_needs_no_torch() -> None:
    blocked = "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['check_gpu.py', '--help'];"
    command = f"{blocked} runpy.run_path('scripts/check_gpu.py', run_name='__main__')"
    shown = subprocess.run([sys.executable, "-c", command], check=True, cwd=ROOT, text=True, capture_output=True)
    assert "--device" in shown.stdout
    assert "--quick" in shown.stdout


@pytest.mark.parametrize("script", ["train", "reproduce", "check_gpu"])
@pytest.mark.parametrize(
    ("event", "code", "line"),
    [
        ("signal.raise_signal(signal.SIGINT)", 130, "stopped: by SIGINT; run the same command to resume\n"),
        ("raise ModuleNotFoundError(name='rich')", 1, "error: rich is not installed; it belongs to smoothout's extra"),
    ],
)
def test_what_ends_a_program_during_its_imports_is_one_line(
    script: str, event: str, code: int, line: str, tmp_path: Path
) -> None:
    """The event strikes when the first of these is looked for, deep in the imports."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import signal, sys
class Event:
    def find_spec(name, *_):
        if name in ("torch", "rich.progress"):
            {event}
sys.meta_path.insert(0, Event)
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--device=cpu" if script == "check_gpu" else "seed=0"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_signal_while_torch_is_imported_stops_the_program(sweep: list[str], tmp_path: Path) -> None:
    """It strikes within NumPy as torch's C code imports it, where an exception would be lost."""
    (tmp_path / "sitecustomize.py").write_text("""
import signal, sys
struck = []
def hook(event, arguments):
    if event == "import" and not struck and arguments[0].startswith("numpy.") and "torch" in sys.modules:
        struck.append(arguments[0])
        signal.raise_signal(signal.SIGTERM)
sys.addaudithook(hook)
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    command = [sys.executable, str(SCRIPTS / "train.py"), *sweep, "experiment=digits", "profile=smoke", "device=cpu"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr == "stopped: by SIGTERM; run the same command to resume\n"
    assert not list(tmp_path.rglob("results/train/*.json"))
