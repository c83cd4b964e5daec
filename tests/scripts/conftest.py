"""A script in this process, in folders of its own."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from functools import partial
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
def script(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the script of that name in this process; gives its exit code and the lines on stdout and stderr."""

    def run(name: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT.with_stem(name)), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def program(script: Program) -> Program:
    """Runs scripts/train.py so."""
    return partial(script, "train")
