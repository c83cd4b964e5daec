"""`scripts/reproduce.py` from nothing to a rendered table, and what it costs a second time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import digits, tree

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("results", "checkpoints", "logs")


def reproduce(folder: Path, *overrides: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    places = {f"SMOOTHOUT_{name.upper()}": str(folder / name) for name in FOLDERS}
    places |= {"SMOOTHOUT_DATA": digits().name, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "threads=1", "tensorboard=false", *overrides]
    piped = {"stdout": stdout, "stderr": subprocess.PIPE}
    return subprocess.run(command, env=os.environ | places, text=True, check=False, cwd=folder, **piped)


@pytest.mark.slow
def test_the_quickstart_makes_its_table_and_picture_once_and_then_only_shows_them(tmp_path):
    arguments = ("table=quickstart", "figure=quickstart", "scope.profile=smoke", "scope.seeds=[0]")
    first = reproduce(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    frame = pd.read_csv(tmp_path / "results" / "tables" / "quickstart-released-smoke.csv")
    accuracy = frame[frame["column"].str.contains("best|last|improvement")]
    assert set(accuracy["n"]) == {1}
    assert accuracy.loc[~accuracy["column"].str.contains("improvement"), "mean"].between(5, 100).all()
    sharpness = frame[frame["column"].str.contains("sharpness")]
    assert set(sharpness["n"] + sharpness["failed"]) == {1}
    assert sharpness.loc[sharpness["column"].str.contains("converged"), "mean"].gt(0).all()
    figures = tmp_path / "results" / "figures"
    assert {p.suffix for p in figures.iterdir()} == {".svg", ".png"}
    assert "SmoothOut" in first.stdout

    before = tree(tmp_path / "results" / "train") | tree(tmp_path / "checkpoints")
    again = reproduce(tmp_path, *arguments)
    assert again.returncode == 0
    assert tree(tmp_path / "results" / "train") | tree(tmp_path / "checkpoints") == before


def test_a_table_without_records_renders_every_cell_as_not_run_with_its_cost(tmp_path):
    done = reproduce(tmp_path, "table=table2", "run=false", "scope.regime=described")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "results" / "tables" / "table2-described-paper.csv")
    assert set(frame["n"]) == {0}
    assert frame["mean"].isna().all()
    published = frame.set_index(["row", "column"])["published"]
    assert published["F1, MNIST, 256", "baseline best"] == 98.49
    assert published["F1, MNIST, 6000", "smoothout best"] == 98.42
    assert published["C3, CIFAR-100, 5000", "smoothout sharpness released"] == 10.7303
    assert published.filter(like="keskar").isna().all()
    costs = frame[frame["column"].str.endswith("best")]["hours_to_run"]
    assert (costs > 0.1).all()
    assert "…" not in done.stdout
    assert any(line.split("  ")[-1].endswith("[4.06]") for line in map(str.strip, done.stdout.splitlines()))


def test_a_reader_that_goes_away_costs_no_file_and_no_word(tmp_path):
    """As in `reproduce.py ... | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = reproduce(tmp_path, "table=table2", "run=false", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    tables = tmp_path / "results" / "tables"
    assert {p.suffix for p in tables.iterdir()} == {".md", ".csv", ".tex"}


def test_a_picture_alone_is_asked_for_without_a_table_and_is_not_drawn_without_records(tmp_path):
    done = reproduce(tmp_path, "table=none", "figure=f1", "run=false")
    assert done.returncode == 0, done.stderr
    assert "figure f1 lacks records" in done.stdout
    assert done.stdout.count("figure f1: not run: f1-mnist-b256") == 3
    assert tree(tmp_path) == {}


def test_one_call_draws_several_pictures_as_far_as_their_records_are_there(tmp_path):
    done = reproduce(tmp_path, "table=none", "figure=f1,figure1", "run=false", "-m")
    assert done.returncode == 0, done.stderr
    assert "figure f1 lacks records" in done.stdout
    assert {path.name for path in (tmp_path / "results" / "figures").iterdir()} == {"figure1.svg", "figure1.png"}


def test_where_no_job_has_its_data_one_line_says_so_before_any_plan(tmp_path):
    done = reproduce(tmp_path, "table=table2", "rows=[F1]", "scope.profile=smoke", "download=false")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: data: mnist was not found: looked for .*mnist.npz.*\n", done.stderr)
    assert tree(tmp_path) == {}


def test_missing_data_leave_out_their_own_jobs_and_sink_no_other(tmp_path):
    done = reproduce(tmp_path, "table=quickstart", "figure=f1", "scope.profile=smoke", "download=false")
    assert done.returncode == 2
    assert len(re.findall("error: .*mnist.npz", done.stderr)) == 1
    assert "failed" not in done.stderr
    assert re.search(r"figure f1 +0 +0 +no data", done.stdout)
    trained = {path.name.partition("-b")[0] for path in (tmp_path / "results" / "train").iterdir()}
    assert trained == {"small_mlp-digits"}


def test_rows_choose_what_is_run_and_the_table_keeps_all_rows(tmp_path):
    done = reproduce(tmp_path, "table=quickstart", "rows=['720']", "scope.profile=smoke", "table.sharpness=[]")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "results" / "tables" / "quickstart-released-smoke.csv")
    assert dict(frame.groupby("row")["n"].max()) == {"digits, 32": 0, "digits, 720": 1}
