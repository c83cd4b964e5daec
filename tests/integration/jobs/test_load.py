"""The network of a recorded run: the weights that its record is about, trained if they are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import tree
from helpers.paths import CONFIGS

import smoothout
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.jobs import prepared_run
from smoothout.nn.evaluation import evaluate

RUN = ["experiment=digits", "batch=large", "schedule.epochs=2", "threads=1", "download=false", "tensorboard=false"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name in ("DATA", "RESULTS", "CHECKPOINTS", "LOGS"):
        monkeypatch.delenv(f"SMOOTHOUT_{name}", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("weights", ["best", "last"])
def test_the_network_has_the_accuracy_of_its_record(tmp_path: Path, weights: str) -> None:
    model = smoothout.trained(RUN, weights=weights, configs=CONFIGS)
    [record] = (tmp_path / "results" / "train").glob("*.json")
    _, test, _ = build_experiment(compose_config(CONFIGS, "train", RUN)).data.load(
        tmp_path / "data", torch.device("cpu")
    )
    told = json.loads(record.read_text())["outcome"][weights]["test_accuracy"]
    assert evaluate(model, test.batches(100)).accuracy == told
    assert not model.training


def test_a_recorded_network_is_loaded_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    smoothout.trained(RUN, configs=CONFIGS)
    monkeypatch.setattr(prepared_run, "load_splits", None)
    smoothout.trained(RUN, configs=CONFIGS)


def test_a_run_whose_checkpoint_was_lost_is_trained_again_and_its_record_stays(tmp_path: Path) -> None:
    first = smoothout.trained(RUN, configs=CONFIGS)
    records = tree(tmp_path / "results" / "train")
    [path] = (tmp_path / "checkpoints").glob("*.pt")
    path.unlink()
    again = smoothout.trained(RUN, configs=CONFIGS)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert tree(tmp_path / "results" / "train") == records
