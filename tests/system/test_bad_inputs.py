"""Broken and hostile input: one line, exit code 2, the disk unchanged, nothing executed."""

from __future__ import annotations

import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from soak import corrupt_files as spoilt
from soak.bad_input_runner import RUN, Case, judge, listing, prepare, try_all
from soak.bad_inputs import CASES
from soak.kills import Broken
from soak.processes import PLACES

Call = Callable[[Case, Path], tuple[int, list[str]]]
SOUND = Case("train", RUN, "")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: Any, scripts: Path) -> Call:
    """Gives a program's exit code and lines; it runs in this process, from a folder."""

    def run(case: Case, folder: Path) -> tuple[int, list[str]]:
        for name in PLACES:
            monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(folder / name))
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [f"{case.program}.py", *case.arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(scripts / f"{case.program}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), [*out.splitlines(), *err.splitlines()]

    return run


def test_there_are_more_than_250_and_no_two_are_the_same():
    assert len({str(case) for case in CASES}) == len(CASES) > 250


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_broken_input_is_refused_in_one_line_and_leaves_no_trace(
    case: Case, call: Call, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "case"
    before = prepare(case, trained, folder)
    code, lines = call(case, folder)
    judge(case, code, lines, listing(folder) == before)


@pytest.mark.slow
def test_a_process_of_its_own_refuses_as_well(scripts: Path, tmp_path: Path) -> None:
    chosen = [case for case in CASES if str(case).endswith(("payload", "seed=x", "data: torn", "edited by hand"))]
    assert len(chosen) >= 6
    assert try_all(chosen, scripts, tmp_path) == len(chosen)


@pytest.mark.slow
def test_what_is_sound_is_not_refused(call: Call, trained: Path, tmp_path: Path) -> None:
    """The folder that every case begins with is in order: its record is found, and nothing is made."""
    before = prepare(SOUND, trained, tmp_path / "case")
    code, lines = call(SOUND, tmp_path / "case")
    assert (code, len(lines)) == (0, 1)
    assert listing(tmp_path / "case") == before


@pytest.mark.parametrize(
    ("code", "lines", "unchanged"),
    [
        (0, ["error: seed: x"], True),
        (1, ["error: seed: x"], True),
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
    pickle.loads(pickle.dumps(spoilt.Payload()))
    assert listing(tmp_path) == {"mark": "folder"}
    (tmp_path / "mark").rmdir()
    torch.save({"best": spoilt.Payload()}, tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [*spoilt.DATA, *spoilt.CHECKPOINTS, *spoilt.RECORDS], ids=lambda s: s.__name__)
def test_every_file_is_spoilt(spoil: Any, trained: Path, tmp_path: Path) -> None:
    sound = prepare(SOUND, trained, tmp_path / "sound")
    assert prepare(Case("train", (), "", spoil), trained, tmp_path / "spoilt") != sound
