"""The strength chosen on held-out images: the rule, its record, and the whole program."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.common import a_record, tree
from helpers.paths import ROOT
from helpers.programs import PLACES, QUIET, Program

from smoothout.common.errors import ConfigError, RecordError
from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, InitFrom, build_experiment
from smoothout.data import datasets
from smoothout.data.datasets import DatasetName
from smoothout.reproduction.choose_strength import Grid, StrengthChoice, StrengthSearch

TINY = ("schedule.epochs=2", "model.width=16", "batch.size=128", "grid.strengths=[0,0.05,50]", "grid.seeds=[0,1]")


def trained(a: float, last: float, best: float = 1.0, diverged: bool = False) -> Any:
    outcome = {
        "last": {"test_accuracy": last},
        "best": {"test_accuracy": best},
        "diverged": diverged,
        "examples": {"train": 90, "test": 10},
    }
    return a_record("train", outcome, settings={"perturbation": {"a": a}})


# The rule


def test_the_best_mean_is_chosen_with_standard_errors_over_seeds() -> None:
    accuracies = {0.0: [0.5, 0.6, 0.9], 0.02: [0.8, 0.7, 0.7], 0.1: [0.2, 0.1, 0.95]}
    records = [trained(a, accuracies[a][seed]) for seed in range(3) for a in (0.1, 0.0, 0.02)]
    found = StrengthChoice().from_records(records)
    assert found["chosen"] == 0.02
    assert [row["a"] for row in found["strengths"]] == [0.0, 0.02, 0.1]
    for row in found["strengths"]:
        assert row["accuracies"] == accuracies[row["a"]]
        assert row["mean"] == pytest.approx(sum(accuracies[row["a"]]) / 3)
        assert row["standard_error"] == pytest.approx(statistics.stdev(accuracies[row["a"]]) / math.sqrt(3))
    assert found["examples"] == {"learnt": 90, "held_out": 10}


def test_of_equal_means_the_smaller_strength_is_chosen_whatever_rounding_says() -> None:
    assert 0.1 + 0.7 != 0.3 + 0.5
    records = [trained(a, accuracy) for a, accuracy in ((0.2, 0.1), (0.2, 0.7), (0.1, 0.3), (0.1, 0.5), (0.3, 0.4))]
    assert StrengthChoice().from_records(records)["chosen"] == 0.1
    assert StrengthChoice().from_records(records[::-1])["chosen"] == 0.1


def test_the_best_epoch_is_compared_where_it_is_asked_for() -> None:
    records = [trained(0.1, last=0.9, best=0.91), trained(0.2, last=0.8, best=0.95)]
    by = {weights: build_strength(weights).from_records(records)["chosen"] for weights in ("last", "best")}
    assert by == {"last": 0.1, "best": 0.2}


def build_strength(weights: str) -> StrengthChoice:
    made: StrengthChoice = build(
        {"_target_": "smoothout.reproduction.choose_strength.StrengthChoice", "checkpoint": weights}, "strength"
    )
    return made


# The jobs


def composed(*overrides: str) -> tuple[Experiment, Grid]:
    """Without `hydra`, as the program composes it."""
    config = compose_config(ROOT / "configs", "choose_strength", overrides)
    return build_experiment(config), build(config["grid"], "grid", Grid)


def test_every_strength_is_trained_with_every_seed_and_a_tenth_held_out() -> None:
    base, grid = composed("experiment=f1_mnist", "method=adasmoothout", "grid.strengths=[0.2,0.1]")
    choosing = StrengthSearch(base, grid)
    *trainings, choice = choosing.jobs()
    assert choice.dependencies == tuple(trainings)
    found = [(job.settings.method.a, job.settings.seed) for job in trainings]
    assert found == [(a, seed) for a in (0.1, 0.2) for seed in (0, 1, 2)]
    assert {job.settings.data.validation_size for job in trainings} == {6000}
    assert {job.settings.method.scaling for job in trainings} == {"filter"}
    assert list(choosing.plan()) == ["a = 0.1", "a = 0.2"]
    assert choice.name.startswith("f1-mnist-b256-adasmoothout-e200-")


@pytest.mark.parametrize("method", ["smoothout", "adasmoothout"])
def test_a_training_of_the_choice_is_the_one_that_a_sweep_would_make(method: str) -> None:
    choosing = StrengthSearch(*composed("experiment=f1_mnist", f"method={method}", "grid.strengths=[0,0.1]"))
    for a, seed in ((0, 0), (0.1, 2)):
        swept = ["experiment=f1_mnist", f"method={method}", f"method.a={a}", f"seed={seed}"]
        other = build_experiment(compose_config(ROOT / "configs", "train", [*swept, "data.validation_size=6000"]))
        [same] = [j for j in choosing.choice.dependencies if (j.settings.method.a, j.settings.seed) == (a, seed)]
        assert same.digest == type(same)(other).digest


def test_a_training_that_others_start_from_does_not_see_their_held_out_images() -> None:
    base, grid = composed("experiment=f1_mnist", "method=smoothout")
    for _ in range(2):
        base = replace(base, init_from=InitFrom(base))
    for job in StrengthSearch(base, grid).choice.dependencies:
        run: Experiment | None = job.settings
        for _ in range(3):
            assert run is not None
            assert run.data.validation_size == 6000
            run = run.source
        assert run is None
    other = replace(composed("experiment=f1_mnist")[0], data=composed("experiment=c1_cifar10")[0].data)
    run = replace(composed("experiment=f1_mnist")[0], init_from=InitFrom(other)).holding_out(9)
    assert (run.data.validation_size, run.source) == (9, other), "other images"


def test_trainings_on_different_data_are_not_compared() -> None:
    records = [trained(a, 0.9) for a in (0.1, 0.2)]
    for number, record in enumerate(records):
        record.outcome["data_sha256"] = str(number)
    with pytest.raises(RecordError, match=r"^record: name and name were trained on different data of the name d; "):
        StrengthChoice().from_records(records)


def test_a_method_without_noise_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^method: must be a method with noise .*, not sam"):
        StrengthSearch(*composed("experiment=f1_mnist", "method=sam"))


# The program


def outcomes(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was chosen, and what the trainings came to."""
    [choice], trainings = (
        [json.loads(path.read_text()) for path in sorted((folder / "results" / kind).iterdir())]
        for kind in ("strength", "train")
    )
    return choice, trainings


def test_the_program_trains_compares_and_repeats_nothing_and_never_sees_the_test_split(
    tmp_path: Path, script: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = datasets.load(DatasetName.digits, Path("nowhere"))
    poisoned = arrays._replace(x_test=255 - arrays.x_test, y_test=(arrays.y_test + 1) % 10)
    chosen = []
    for name, these in (("plain", arrays), ("poisoned", poisoned)):
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        for kind in PLACES:
            monkeypatch.setenv(f"SMOOTHOUT_{kind.upper()}", str(folder / kind))
        np.savez(folder / "data" / "digits.npz", **these._asdict())
        code, shown, _ = script("choose_strength", *QUIET, *TINY)
        assert code == 0
        choice, trainings = outcomes(folder)
        out = choice["outcome"]
        assert len(trainings) == len(choice["inputs"]) == 6
        assert out["examples"] == {"learnt": 1295, "held_out": 143}
        assert out["chosen"] < 50, "noise of that strength leaves nothing of the weights"
        assert f"method.a={out['chosen']:g}: {out['rule']}" in "\n".join(shown)
        assert choice["labels"] == {"model": "small_mlp", "data": "digits", "batch": 128, "epochs": 2}
        chosen.append((out["strengths"], [(t["digest"], t["outcome"]["weights"]) for t in trainings]))
    assert chosen[0] == chosen[1]

    before = tree(folder / "results" / "train") | tree(folder / "results" / "strength")
    (folder / "data" / "digits.npz").unlink()
    assert script("choose_strength", *QUIET, *TINY)[0] == 0
    assert tree(folder / "results" / "train") | tree(folder / "results" / "strength") == before


def test_a_sweep_continues_where_trainings_of_one_choice_fail_and_names_all_that_failed(
    root: Path, script: Program
) -> None:
    first = StrengthSearch(*composed(*TINY)).jobs()[0]  # without noise: of both choices
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / f"{first.name}.pt").write_bytes(b"no checkpoint")
    code, _, told = script("choose_strength", "-m", *QUIET, *TINY, "method=smoothout,adasmoothout")
    lines = [line for line in told if line.startswith("failed: ")]
    assert code == 2
    assert sum(line.startswith(f"failed: {first.name}: checkpoint: ") for line in lines) == 2
    ends = [line for line in lines if line.endswith(": 1 of its jobs failed, as reported above")]
    assert [method for line in ends for method in line.split() if "smoothout" in method] == [
        "method=smoothout:",
        "method=adasmoothout:",
    ]
    assert len(list((root / "results" / "train").iterdir())) == 9  # of 4 + 4 with noise and 2 without
