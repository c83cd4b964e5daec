"""scripts/analyze.py as a user meets it: what it trains for an analysis, and what it prints about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from helpers.common import tree
from helpers.programs import SHORT, Program, records

from smoothout.training import checkpoint

AVERAGES = (*SHORT, "analysis=running_statistics")


def test_a_run_that_is_to_be_trained_first_is_named_with_its_cost_and_then_never_again(
    root: Path, script: Program
) -> None:
    code, out, [line] = script("analyze", *AVERAGES)
    [run] = records(root)
    assert code == 0
    assert re.fullmatch(rf"{run}: not trained yet: trained first \(time: (about \d+ min|unknown)\)", line)
    assert out[0].endswith(": test accuracy by running statistics")
    assert script("analyze", *AVERAGES) == (0, out, [])

    [path] = (root / "checkpoints").glob("*.pt")
    path.unlink()
    assert script("analyze", *AVERAGES) == (0, out, [])
    code, _, [line] = script("analyze", *AVERAGES, "analysis.checkpoint=last")
    assert code == 0
    assert line == f"{run}: recorded, but its weights are not here: trained first (time: about 1 min)"


def test_a_run_that_was_interrupted_is_named_with_what_it_lacks(root: Path, script: Program) -> None:
    assert script("train", *SHORT)[0] == 0
    [record], [path] = (root / "results" / "train").glob("*.json"), (root / "checkpoints").glob("*.pt")
    digest = json.loads(record.read_text())["digest"]
    state = checkpoint.load(path, digest)
    state.epoch = 1
    state.curves = {name: curve[:1] for name, curve in state.curves.items()}
    checkpoint.save(path, state, digest)
    code, _, [line] = script("analyze", *AVERAGES)
    assert code == 0
    assert line == f"{record.stem}: interrupted after 1 of 2 epochs: trained first (time: about 1 min)"


def test_what_is_wrong_with_an_analysis_is_said_before_anything_is_trained(root: Path, script: Program) -> None:
    code, out, [line] = script("analyze", *SHORT, "analysis.subspace=999999")
    assert (code, out) == (2, [])
    assert line.startswith("error: analysis.subspace: 999999 is more than the ")
    assert tree(root / "results") == tree(root / "checkpoints") == {}


def test_in_a_sweep_every_analysis_ends_with_what_tells_it_from_the_others(root: Path, script: Program) -> None:
    code, out, _ = script("analyze", "-m", *AVERAGES, "analysis.checkpoint=best,last")
    assert code == 0
    told = [line.rpartition(" [")[2] for line in out if line.endswith("]")]
    assert [line.rpartition(" ")[2] for line in told] == ["analysis.checkpoint=best]", "analysis.checkpoint=last]"]


def test_overrides_of_the_analysis_are_those_of_no_run_however_they_are_written(root: Path, script: Program) -> None:
    interpolation = ("analysis=interpolation", "++analysis.points=3", "second_run=['seed=1']")
    code, _, lines = script("analyze", *SHORT, *interpolation)
    assert code == 0, lines
    assert len(records(root)) == 2
    code, _, [line] = script("analyze", *SHORT, "++second_run=['seed=1']")
    assert code == 2
    assert line.startswith("error: second_run: has no effect on analysis=sharpness")
