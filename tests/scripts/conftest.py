"""scripts/train.py in this process, in folders of its own."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from train_program import PLACES, SCRIPT, Ended, Program


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for everything that the program writes, and an empty one to start it from."""
    for name in PLACES:
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by the program; put back after the test
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def program(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the script in this process; gives its exit code and the lines on stdout and stderr."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out.splitlines(), err.splitlines()

    return run
