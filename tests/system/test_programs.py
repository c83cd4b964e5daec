"""The programs in separate processes: killed, terminated, pooled, piped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.common import tree
from helpers.programs import QUIET, SHORT, Program, records, start, without_times

GIVEN = ("threads=1", "tensorboard=false")


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> Path:
    """Wait for the running ``process`` to write a file."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = list(folder.rglob(pattern))
        if found:
            return found[0]
        if process.poll() is not None:
            pytest.fail(f"the program ended before it wrote {pattern}: {process.communicate()}")
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"the program wrote no {pattern}")


def test_a_training_that_is_terminated_leaves_a_checkpoint_one_line_and_code_143(root: Path) -> None:
    process = start(*QUIET, "schedule.epochs=1000", "checkpoint_seconds=1e9")
    lock = wait_for("weights-*.lock", root / "checkpoints", process)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "")
    assert err == "stopped: by SIGTERM; run the same command to resume\n"
    (path,) = (root / "checkpoints").glob("*.pt")
    assert path.stem.endswith(lock.stem.removeprefix("weights-"))
    content = torch.load(path, weights_only=True)
    assert json.loads(content["json"])["digest"].startswith(lock.stem.removeprefix("weights-"))
    assert records(root) == {}


def test_a_sweep_over_two_processes_gives_the_records_of_a_serial_one(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ("-m", *SHORT, "seed=0,1", "method.a=0.05,-1")
    process = start(*sweep, "hydra/launcher=local", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    parallel = records(root)
    assert sorted(line.partition(":")[0] for line in out.splitlines()) == list(parallel)
    assert sum(line.startswith("failed: ") for line in err.splitlines()) == 2
    assert list((root / "here").iterdir()) == []

    monkeypatch.setenv("SMOOTHOUT_RESULTS", str(root / "serial" / "results"))
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(root / "serial" / "checkpoints"))
    assert program(*sweep)[0] == 2
    serial = records(root / "serial")
    assert len(serial) == 2
    assert serial.keys() == parallel.keys()
    for name, record in serial.items():
        assert without_times(record["outcome"]) == without_times(parallel[name]["outcome"])


def test_the_quickstart_makes_its_table_and_picture_once_and_then_only_shows_them(root, script):
    arguments = ("table=quickstart", "figure=quickstart", "scope.profile=smoke", "scope.seeds=[0]")
    first = start(*GIVEN, *arguments, script="reproduce")
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    frame = pd.read_csv(root / "results" / "tables" / "quickstart-authors_code-smoke.csv")
    accuracy = frame[frame["column"].str.contains("best|last|improvement")]
    assert set(accuracy["n"]) == {1}
    assert accuracy.loc[~accuracy["column"].str.contains("improvement"), "mean"].between(5, 100).all()
    sharpness = frame[frame["column"].str.contains("sharpness")]
    assert set(sharpness["n"] + sharpness["failed"]) == {1}
    assert sharpness.loc[sharpness["column"].str.contains("converged"), "mean"].gt(0).all()
    figures = root / "results" / "figures"
    assert {p.suffix for p in figures.iterdir()} == {".svg", ".png"}
    assert "SmoothOut" in out

    before = tree(root / "results" / "train") | tree(root / "checkpoints")
    assert script("reproduce", *GIVEN, *arguments)[0] == 0
    assert tree(root / "results" / "train") | tree(root / "checkpoints") == before


def test_a_reader_that_goes_away_costs_no_file_and_no_word(root):
    """As in `reproduce.py ... | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = start(*GIVEN, "table=table2", "run=false", script="reproduce", stdout=writing)
    os.close(writing)
    assert done.communicate(timeout=300) == (None, "")
    assert done.returncode == 1
    tables = root / "results" / "tables"
    assert {p.suffix for p in tables.iterdir()} == {".md", ".csv", ".tex"}


def test_work_stops_when_the_process_that_it_is_done_for_has_died(tmp_path: Path) -> None:
    """A pool's process is asked to stop as by SIGTERM."""
    child = (
        "import time; from smoothout.common import interrupts; interrupts.exit_with_parent();\n"
        "with interrupts.defer_signals():\n"
        "    print('begun', flush=True)\n"
        "    while not interrupts.pending_signal(): time.sleep(0.05)\n"
        f"    open({str(tmp_path / 'left')!r}, 'w').close()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.kill()
        until = time.monotonic() + 30
        while not (tmp_path / "left").exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert (tmp_path / "left").exists()
