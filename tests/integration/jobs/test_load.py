"""The network of a recorded run: the weights that its record is about, trained if they are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import tree
from helpers.paths import CONFIGS

import smoothout
from smoothout.common.errors import ConfigError
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
    model = smoothout.trained(RUN, checkpoint=weights, configs=CONFIGS)
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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("experiment=nope", ["experiment: 'nope' is not one of", "f1_mnist"]),
        ("optimizer.lrr=1", ["optimizer.lrr: unknown key (did you mean lr?)"]),
        ("batch", ["batch"]),
        ("+method=smoothout", ["method: has a choice already; write method=smoothout, without +"]),
        ("seed=${nothing}", ["seed: Interpolation key 'nothing' not found"]),
        ("init_from.run=['sede=1']", ["init_from.run: sede: unknown key (did you mean seed?)"]),
    ],
)
def test_overrides_that_cannot_be_used_are_one_line(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        smoothout.trained(["experiment=digits", override], configs=CONFIGS)
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)
    assert tree(tmp_path) == {}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    assert torch.get_default_dtype() is dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "modes",
    [
        [torch.inference_mode(), default_dtype(torch.float64)],
        [torch.no_grad(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16)],
    ],
    ids=["inference", "no_grad"],
)
def test_what_the_caller_has_set_in_torch_changes_neither_the_run_nor_the_network(
    tmp_path: Path, modes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    for place in ("usual", "set"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        with ExitStack() as stack:
            for mode in modes if place == "set" else []:
                stack.enter_context(mode)
            networks += [smoothout.trained(RUN, configs=CONFIGS) for _ in range(2)]  # trained, then found
    for network in networks:
        assert all(map(torch.equal, network.parameters(), networks[0].parameters()))
        assert not any(parameter.is_inference() for parameter in network.parameters())
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_run_whose_checkpoint_was_lost_is_trained_again_and_its_record_stays(tmp_path: Path) -> None:
    first = smoothout.trained(RUN, configs=CONFIGS)
    records = tree(tmp_path / "results" / "train")
    [path] = (tmp_path / "checkpoints").glob("*.pt")
    path.unlink()
    again = smoothout.trained(RUN, configs=CONFIGS)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert tree(tmp_path / "results" / "train") == records


def test_overrides_must_be_a_list() -> None:
    with pytest.raises(TypeError, match=r"^overrides: must be a list, such as .*, not 'seed=1'$"):
        smoothout.trained("seed=1", configs=CONFIGS)
