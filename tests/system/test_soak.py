"""The soak test, shortened: a few kills of each program, signals, writers, a sweep; and what the report says."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from soak import concurrency, kills, program
from soak.bad_input_runner import try_all
from soak.bad_inputs import CASES
from soak.kills import Broken, Strike, Unbroken
from soak.processes import Aim, Moment, written
from soak.program import Soak, Survived

ENVIRONMENT = {"device": "cpu", "processor": "a processor", "cores": 2, "versions": {"torch": "2.9"}, "commit": "abc"}


@pytest.mark.parametrize("work", kills.WORK)
def test_programs_that_are_killed_resume_to_the_same_bits(
    work: str, unbroken: Callable[[str], Unbroken], tmp_path: Path
) -> None:
    assert len(list(kills.survive(unbroken(work), 3, 1, tmp_path))) == 3


@pytest.mark.parametrize("moment", Moment)
def test_a_process_dies_where_it_is_told_to_and_the_next_one_resumes(
    moment: Moment, unbroken: Callable[[str], Unbroken], scripts: Path, tmp_path: Path
) -> None:
    whole = unbroken("training")
    here, command = tmp_path / "killed", whole.command
    process = command.started(scripts, here, Aim(whole.writes - 1, moment))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert written(here)[-1][1] == moment
    rests = [path for path in here.rglob("*.part*") if path.parent.name == "checkpoints"]
    assert len(rests) == (moment is not Moment.renamed)
    assert command.run(scripts, here) == 0
    assert kills.left(here) == whole.left
    assert not list(here.rglob("*.part*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_stopped_by_a_signal_resumes(
    number: signal.Signals, unbroken: Callable[[str], Unbroken], tmp_path: Path
) -> None:
    assert kills.stop(unbroken("sweep"), number, 0, tmp_path / "stopped").where.endswith(f"exit code {128 + number}")


def test_many_writers_make_every_run_once(scripts: Path, tmp_path: Path) -> None:
    assert concurrency.write_at_once(8, scripts, tmp_path) == 7


def test_a_sweep_that_is_killed_resumes_lists_what_failed_and_makes_nothing_twice(
    scripts: Path, tmp_path: Path
) -> None:
    assert concurrency.sweep(2, scripts, tmp_path) == (6, 2)


def test_the_shares_of_the_kills_are_all_of_them() -> None:
    for count in (4, 5, 7, 100, 1001):
        shares = Soak(kills=count).of_work()
        assert sum(shares.values()) == count
        assert shares.keys() == kills.WORK.keys()
        assert min(shares.values()) >= 1


@pytest.mark.parametrize("field", ["kills", "writers", "sweep", "seed", "inputs"])
def test_a_soak_that_tries_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: must be"):
        Soak(**{field: -1})


def test_a_difference_in_one_bit_is_found(scripts: Path, tmp_path: Path, trained: Path) -> None:
    found = kills.left(trained)
    whole = Unbroken("training", kills.WORK["training"], scripts, found, 1.0, 1)
    kills._compare(trained, whole, 0)
    [(name, record)] = found.items()
    loss = record["outcome"]["last"]["test_loss"]
    other = {**record, "outcome": {**record["outcome"], "last": {"test_loss": loss * (1 + 2**-52)}}}
    with pytest.raises(Broken, match=f"{name} differ"):
        kills._compare(trained, replace(whole, left={name: other}), 0)
    with pytest.raises(Broken, match="ended with 1"):
        kills._compare(trained, whole, 1)
    with pytest.raises(Broken, match=f"{name}.json was lost"):
        kills._check(tmp_path, {f"{name}.json": b"{}"})


def test_the_report_says_where_programs_died() -> None:
    strikes = [
        Strike("training", "SIGKILL", "checkpoint: written, not synced"),
        Strike("table", "SIGKILL", "after writing a record"),
        Strike("table", "SIGKILL", "after writing a record"),
        Strike("sweep", "SIGTERM", "exit code 143"),
    ]
    survived = Survived(strikes, 7, (75, 25), Counter(train=100, analyze=20), 600.0)
    text = program.markdown(Soak(kills=4), survived, ENVIRONMENT)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["where the process died", "training", "table"] in rows
    assert ["SIGKILL: after writing a record", "0", "2"] in rows
    assert ["SIGKILL: checkpoint: written, not synced", "1", "0"] in rows
    assert ["SIGTERM: exit code 143", "1"] in rows
    for words in ("## 3 kills survived, 1 of them within a write", "7 runs", "100 settings", "## 120 broken inputs"):
        assert words in text


OWN_PROCESS = ("payload", "seed=x", "data: torn", "edited by hand", "sede=1", "os.system", "seed=0,", "rows=[nothing]")


def test_a_process_of_its_own_refuses_broken_input_as_well(scripts: Path, tmp_path: Path) -> None:
    chosen = [case for case in CASES if str(case).endswith(OWN_PROCESS)]
    assert len(chosen) >= 12
    assert try_all(chosen, scripts, tmp_path) == len(chosen)
