"""scripts/train.py as a user meets it: started, killed, stopped, misspelled."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import tree
from helpers.programs import SHORT, Program, fails, records

from smoothout.jobs import training_job
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.trainer import Trainer

# One training


def test_a_training_leaves_its_record_and_one_line(root: Path, program: Program) -> None:
    code, out, err = program(*SHORT, "method=smoothout")
    assert (code, err) == (0, [])
    (name,) = records(root)
    assert re.fullmatch(r"small_mlp-digits-b720-smoothout0\.0375-e2-s0-[0-9a-f]{8}", name)
    best = records(root)[name]["outcome"]["best"]["test_accuracy"]
    assert len(out) == 1
    assert out[0].startswith(f"{name}: test accuracy {100 * best:.2f}% (best, epoch ")
    assert list((root / "here").iterdir()) == []
    assert list(tree(root / "checkpoints")) == [f"{name}.pt"]


def test_a_training_that_has_a_record_says_the_same_and_is_not_repeated(
    root: Path, program: Program, trainings: list[TrainingState | None]
) -> None:
    first = program(*SHORT)
    before = tree(root)
    assert program(*SHORT) == first
    assert len(trainings) == 1
    assert tree(root) == before


def test_a_training_that_begins_with_the_weights_of_another_trains_that_first(root: Path, program: Program) -> None:
    code, out, err = program(*SHORT, "init_from.run=['schedule.epochs=1']")
    assert (code, err) == (0, [])
    first, second = sorted(records(root).values(), key=lambda record: len(record["inputs"]))
    assert (first["labels"]["epochs"], second["labels"]["epochs"]) == (1, 2)
    assert second["inputs"] == [first["name"]]
    assert [line.partition(":")[0] for line in out] == [second["name"]]


def test_ctrl_c_leaves_a_checkpoint_one_line_and_code_130(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training_job.Trainer

    def pressed(*arguments: Any, **settings: Any) -> Trainer:
        signal.raise_signal(signal.SIGINT)
        return train(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "Trainer", pressed)
        assert program(*SHORT) == (130, [], ["stopped: by SIGINT; run the same command to resume"])
    (path,) = (root / "checkpoints").glob("*.pt")
    snapshot = checkpoint.load(path, json.loads(torch.load(path, weights_only=True)["json"])["digest"])
    assert (snapshot.epoch, snapshot.step) == (0, 1)
    assert records(root) == {}
    assert program(*SHORT)[0] == 0
    assert len(records(root)) == 1


# Faults


def test_a_fault_ends_with_code_1_and_its_traceback_lies_in_the_logs(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_job, "Trainer", fails)
    log = root / "logs" / "failure.txt"
    expected = ["error: RuntimeError: a bug", f"the traceback is in {log}"]
    assert program(*SHORT) == (1, [], expected)
    assert "fails" in log.read_text()
    assert records(root) == {}
