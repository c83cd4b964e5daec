"""The report of a GPU's checks: its lines, its exit code, and what it says without a GPU."""

from __future__ import annotations

import pytest
import torch

from smoothout.benchmark.gpu_check import program
from smoothout.benchmark.gpu_check.check import Check, Finding, not_checked, run_checks

CPU = torch.device("cpu")


def holding(device: torch.device, text: str = "well") -> Finding:
    """Shows the device."""
    return Finding(True, f"{text} on {device}")


def failing(device: torch.device) -> Finding:
    """Fails.

    If this fails, it is
    a test.
    """
    return Finding(False, "off by 2")


def crashing(device: torch.device) -> Finding:
    """Crashes.

    Look for a bug.
    """
    try:
        int("a wait")
    except ValueError:
        raise RuntimeError("CUDA error: a capture is broken\nand much more")  # noqa: B904


def impossible(device: torch.device) -> Finding:
    """Cannot be made."""
    return not_checked("there is one GPU here")


def report(*works: Check) -> tuple[bool, list[str]]:
    lines: list[str] = []
    held = run_checks(works, CPU, lines.append)
    return held, [line.rpartition(" (")[0] or line for line in lines]


def test_every_check_is_a_line_a_failure_says_what_it_means_and_a_crash_lets_the_others_run() -> None:
    checks = [
        Check("a", failing),
        Check("b", crashing),
        Check("c", holding),
        Check("d", impossible),
        Check("e", failing),
    ]
    held, lines = report(*checks)
    assert not held
    assert lines == [
        "FAILED a: off by 2",
        "       If this fails, it is a test.",
        "FAILED b: RuntimeError: CUDA error: a capture is broken; it began with ValueError:"
        " invalid literal for int() with base 10: 'a wait'",
        "       Look for a bug.",
        "ok     c: well on cpu",
        "-      d: not checked: there is one GPU here",
        "FAILED e: off by 2",
        "1 checks passed, 3 failed",
    ]


def test_what_cannot_be_checked_is_not_a_failure() -> None:
    held, lines = report(Check("a", impossible), Check("b", holding, ("all",)))
    assert held
    assert lines[1] == "ok     b: all on cpu"


@pytest.mark.parametrize("quick", [False, True])
def test_every_check_has_a_name_of_its_own_and_says_what_its_failure_means(quick: bool) -> None:
    checks = program.checks(quick)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names) > 25
    shown = [check.name for check in checks if not check.meaning]
    assert {name for name in shown if not name.startswith("an update of")} == {"machine"}
    assert sum("an update of" in name for name in shown) == (2 if quick else 12)


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_hold(held: bool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(program, "why_no_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(program, "run_checks", lambda checks, device, print_line: taken.append(device) or held)
    assert program.main("cuda:1", quick=True) == code
    assert taken == [torch.device("cuda", 1)] * 2


def test_without_a_gpu_it_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(program, "why_no_gpu", lambda: "no NVIDIA driver was found")
    assert program.main("cuda", quick=False) == 2
    assert capsys.readouterr() == ("", "no GPU to check: no NVIDIA driver was found\n")
