"""What is imported where little is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT

import smoothout


def test_records_and_tables_are_read_without_torch() -> None:
    there = Path(smoothout.__file__).parent
    readers = list((there / "results").rglob("*.py"))
    parts = [path.relative_to(there.parent).with_suffix("").parts for path in readers]
    modules = [".".join(part for part in names if part != "__init__") for names in parts]
    heavy = "[name for name in ('torch', 'hydra') if name in sys.modules]"
    program = f"import sys, {', '.join(modules)}; print({heavy})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


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
