"""The setting init_from: the run is this one's overrides and then its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.paths import CONFIGS

from smoothout.analysis.options import WhichWeights
from smoothout.common.errors import ConfigError
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, build_experiment
from smoothout.jobs.job import Job

INNER = 'init_from.run=["schedule.epochs=5"]'
LARGE = ("experiment=digits", "batch=large", "method=smoothout", "protocol=paper_text", "seed=3")


def composed(*overrides: str, program: str = "train") -> Experiment:
    return build_experiment(compose_config(CONFIGS, program, overrides))


def test_by_default_a_training_begins_with_random_weights() -> None:
    assert composed(*LARGE).init_from is None
    assert Job(composed(*LARGE)).inputs == ()


def test_the_run_has_the_overrides_of_the_training_and_then_its_own() -> None:
    run = ["batch=small", "method=none", "schedule.epochs=20"]
    warm = composed(*LARGE, f"init_from.run={run}", "init_from.checkpoint=best")
    assert warm.source == composed(*LARGE, *run)
    assert replace(warm, init_from=None) == composed(*LARGE)
    assert warm.init_from is not None
    assert warm.init_from.checkpoint is WhichWeights.best
    assert Job(warm).inputs == (Job(composed(*LARGE, *run)),)


def test_a_run_may_begin_with_the_weights_of_another() -> None:
    warm = composed(*LARGE, f"init_from.run={['batch=small', INNER]}")
    assert warm.source == composed(*LARGE, "batch=small", INNER)
    assert warm.source is not None
    assert warm.source.source == composed(*LARGE, "batch=small", "schedule.epochs=5")


def test_a_file_of_configs_may_set_it(tmp_path: Path) -> None:
    """The run has the same file, but begins with random weights."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    digits = (CONFIGS / "experiment" / "digits.yaml").read_text()
    warm_digits = tmp_path / "configs" / "experiment" / "warm_digits.yaml"
    warm_digits.write_text(f"{digits}init_from: {{run: [batch=small, seed=4]}}\n")
    overrides = ("experiment=warm_digits", *LARGE[1:])
    warm = build_experiment(compose_config(tmp_path / "configs", "train", overrides))
    assert warm.source == composed(*LARGE, "batch=small", "seed=4")


def test_profiles_hold_for_both() -> None:
    warm = composed(*LARGE, "init_from.run=['batch=small','schedule.epochs=20']", "profile=short")
    assert warm.source is not None
    assert (warm.schedule.epochs, warm.source.schedule.epochs) == (6, 2)


def test_the_settings_of_a_choice_of_strength_are_not_the_runs() -> None:
    start, grid = "init_from.run=['seed=5']", ("grid.seeds=[0]", "grid.strengths=[0,0.01]")
    values = compose_config(CONFIGS, "choose_strength", [*LARGE, start, *grid])
    assert values["init_from"]["run"]["seed"] == 5
    assert "grid" not in values["init_from"]["run"]


def test_a_config_of_an_analysis_has_the_same_run() -> None:
    start = "init_from.run=['batch=small']"
    analysis = ("analysis=noise_curve", "analysis.draws=1", "second_run=['batch=small']")
    assert composed(*LARGE, start, *analysis, program="analyze") == composed(*LARGE, start)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("init_from.run=batch", r"^init_from\.run: must be null .* or a list of overrides.*not 'batch'"),
        ("init_from.run=[1]", r"^init_from\.run: must be null .* or a list of overrides.*not \[1\]"),
        ("init_from.run=['batch.size=0']", r"^init_from\.run: batch\.size: "),
        ("init_from.run=['seed=-1']", r"^init_from\.run: seed: must be a whole number >= 0, not -1"),
        ("init_from.run=['method=msam','optimizer=sgd']", r"^init_from\.run: optimizer: must have momentum"),
        ("init_from.run=['model=f3']", r"^init_from\.run: model: 'f3' is not one of .*f1"),
        ("init_from.run=['sede=1']", r"^init_from\.run: sede: unknown key \(did you mean seed\?\)"),
        ("init_from.run=['init_from.run=[\"seed=-1\"]']", r"^init_from\.run: init_from\.run: seed: must be"),
        ("seed=-1", r"^seed: must be a whole number >= 0, not -1"),  # shared with the run
        ("init_from.checkpoint=first", r"^init_from\.checkpoint: 'first' is not one of best, last"),
    ],
)
def test_a_run_that_is_none_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*LARGE, *([] if "init_from" in override else ["init_from.run=['batch=small']"]), override)
