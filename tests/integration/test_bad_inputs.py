"""Broken and hostile input: one line, exit code 2, the disk unchanged, nothing executed.

Calls go through a whole program in this process; broken files go to the function that reads them. `make soak` gives
every case in a separate process, `tests/system/test_soak.py` a few of them.
"""

from __future__ import annotations

import pickle
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import tree
from helpers.paths import SCRIPTS
from helpers.tiny_jobs import tiny, workplace
from soak import corrupt_files
from soak.bad_input_runner import RUN, Case, judge, prepare
from soak.bad_inputs import CALLS, CASES, FILES
from soak.kills import Broken
from soak.processes import PLACES

from smoothout.common.errors import UserError
from smoothout.data.datasets import DatasetName, load
from smoothout.jobs.runner import get_or_run
from smoothout.results.records import read_record
from smoothout.training import checkpoint

SOUND = Case("train", RUN, "")
DIGEST = tiny().digest
READERS: dict[str, Callable[[Path], object]] = {
    "data": lambda folder: load(DatasetName.digits, folder / "data"),
    "checkpoint": lambda folder: checkpoint.load(next(folder.glob("checkpoints/*.pt")), DIGEST),
    "record": lambda folder: read_record(next(folder.glob("results/train/*.json"))),
}
READ = corrupt_files.DATA | corrupt_files.CHECKPOINTS | corrupt_files.RECORDS
# By the function that takes a checkpoint's weights, which knows the network: through the program alone.
THROUGH_THE_PROGRAM = ("of another network", "torn", "edited by hand", "a payload", "a list", "of others", "a function")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[[Case, Path], tuple[int, list[str]]]:
    """Gives a program's exit code and lines; it runs in this process, from a folder."""

    def run(case: Case, folder: Path) -> tuple[int, list[str]]:
        for name in PLACES:
            monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(folder / name))
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [f"{case.program}.py", *case.arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{case.program}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), [*out.splitlines(), *err.splitlines()]

    return run


@pytest.fixture
def trained(tmp_path: Path, call: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training's record and weights, made once; not to be changed."""
    folder = tmp_path_factory.getbasetemp() / "trained_by_program"
    if not folder.exists():
        (tmp_path / "made").mkdir()
        assert call(SOUND, tmp_path / "made")[0] == 0
        (tmp_path / "made").rename(folder)
    return folder


@pytest.fixture(scope="module")
def trained_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record and the weights of a tiny job."""
    folder = tmp_path_factory.mktemp("job")
    get_or_run(tiny(), workplace(folder))
    return folder


def test_no_two_cases_are_the_same() -> None:
    assert len({str(case) for case in CASES}) == len(CASES) > 100


@pytest.mark.parametrize(
    "case", [*CALLS, *(case for case in FILES if str(case).endswith(THROUGH_THE_PROGRAM))], ids=str
)
def test_broken_input_is_refused_in_one_line_and_leaves_no_trace(
    case: Case, call: Callable[..., tuple[int, list[str]]], trained: Path, tmp_path: Path
) -> None:
    before = prepare(case, trained, tmp_path / "case")
    code, lines = call(case, tmp_path / "case")
    judge(case, code, lines, tree(tmp_path / "case") == before)


@pytest.mark.parametrize("spoil", READ, ids=lambda spoil: spoil.__name__)
def test_a_broken_file_is_refused_by_what_reads_it(
    spoil: Any, trained_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kind = tmp_path / "corrupt", spoil.__name__.partition(":")[0]
    shutil.copytree(trained_job, folder)
    shutil.rmtree(folder / "data", ignore_errors=True)
    READERS[kind](trained_job)  # which is sound
    spoil(folder)
    before = tree(folder)
    if spoil.__name__.endswith("of another network"):
        return  # its shapes are checked where there is a network
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refused:
        READERS[kind](folder)
    assert [word for word in READ[spoil].split() if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)
    assert tree(folder) == before


def test_what_is_sound_is_not_refused(
    call: Callable[..., tuple[int, list[str]]], trained: Path, tmp_path: Path
) -> None:
    """The folder that every case begins with is in order: its record is found, and nothing is made."""
    before = prepare(SOUND, trained, tmp_path / "case")
    code, lines = call(SOUND, tmp_path / "case")
    assert (code, len(lines)) == (0, 1)
    assert tree(tmp_path / "case") == before


@pytest.mark.parametrize(
    ("code", "lines", "unchanged"),
    [
        (0, ["error: seed: x"], True),
        (2, ["error: seed: x"], False),
        (2, ["error: sede: x"], True),
        (2, ["seed: x"], True),
        (2, [], True),
        (2, ["error: seed: x", "Traceback"], True),
    ],
)
def test_the_judge_lets_nothing_pass(code: int, lines: list[str], unchanged: bool) -> None:
    case = Case("train", ("seed=x",), "seed: x")
    judge(case, 2, ["error: seed: x"], True)
    with pytest.raises(Broken, match="train: seed=x"):
        judge(case, code, lines, unchanged)


def test_the_payload_would_leave_its_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(corrupt_files.Payload()))
    assert tree(tmp_path) == {"mark": "folder"}
    (tmp_path / "mark").rmdir()
    torch.save({"best": corrupt_files.Payload()}, tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").is_dir()
