"""Keys and values of earlier versions work on the command line, in files and in Python, with a warning each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from smoothout.config.build import validate
from smoothout.config.compose import compose_config, to_plain_dict
from smoothout.config.moved import RENAMED, RENAMED_VALUES, current_key, current_overrides
from smoothout.training.schedule import Schedule

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("perturbation=smoothout", "method=smoothout"),
        ("perturbation=none,smoothout", "method=none,smoothout"),
        ("perturbation.a=0.05", "method.a=0.05"),
        ("perturbation.law=gaussian", "method.distribution=gaussian"),
        ("++schedule.drops=[1,2]", "++schedule.milestones=[1,2]"),
        ("~perturbation", "~method"),
        ("sizes.large=12", "batch_sizes.large=12"),
        ("regime=released,v1", "protocol=authors_code,authors_code_v1"),
        ("scope.regime=described", "scope.protocol=paper_text"),
        ("judging.regimes=[released,described]", "claim_scope.protocols=[authors_code,paper_text]"),
        ("analysis=averages", "analysis=running_statistics"),
        ("analysis.part=test", "analysis.split=test"),
        ("engine.ghosts=one_pass", "engine.ghosts=batched"),
    ],
)
def test_an_old_override_becomes_the_current_one_with_a_warning_of_one_line(old: str, new: str) -> None:
    with pytest.warns(FutureWarning) as warned:
        assert current_overrides([old, "seed=1"]) == [new, "seed=1"]
    [line] = [str(warning.message) for warning in warned]
    assert old in line
    assert new in line
    assert len(line.splitlines()) == 1


def test_current_overrides_stay_as_they_are() -> None:
    given = ["method=smoothout", "method.a=0.05", "+a=1", "data.name=released", "hydra/launcher=local", "'odd text'"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert current_overrides(given) == given


@pytest.mark.parametrize("new", RENAMED.values())
def test_a_current_name_is_not_renamed_again(new: str) -> None:
    assert current_key(new) == new


def test_the_readme_of_the_configs_lists_every_renamed_key_and_value() -> None:
    readme = (CONFIGS / "README.md").read_text(encoding="utf-8")
    keys = [(old.rpartition(".")[2], new.rpartition(".")[2]) for old, new in RENAMED.items()]
    values = [pair for names in RENAMED_VALUES.values() for pair in names.items()]
    assert [(old, new) for old, new in [*keys, *values] if f"`{old}` -> `{new}`" not in readme] == []


def test_old_overrides_compose_to_the_current_config() -> None:
    with pytest.warns(FutureWarning, match="perturbation"):
        old = compose_config(
            CONFIGS, "train", ["perturbation=smoothout", "perturbation.draw=batch", "regime=described"]
        )
    assert old == compose_config(
        CONFIGS, "train", ["method=smoothout", "method.noise_per=batch", "protocol=paper_text"]
    )


def config_of(**values: Any) -> Any:
    config = OmegaConf.create(values)
    OmegaConf.set_struct(config, True)
    return config


def test_old_keys_of_a_config_file_count_as_the_current_ones() -> None:
    given = config_of(
        epoch_multiplier=1,
        longer=2,
        batch_sizes={"large": 12, "small": 3},
        sizes={"large": 99},
        batch={"size": "${batch_sizes.large}"},
        schedule={"milestones": [], "drops": [150]},
        engine={"ghosts": "in_turn"},
        claim_scope={"protocols": ["released", "paper_text"]},
    )
    with pytest.warns(FutureWarning):
        values = to_plain_dict(given)
    assert values == {
        "epoch_multiplier": 2,
        "batch_sizes": {"large": 99, "small": 3},
        "batch": {"size": 99},
        "schedule": {"milestones": [150]},
        "engine": {"ghosts": "sequential"},
        "claim_scope": {"protocols": ["authors_code", "paper_text"]},
    }


def test_overrides_in_a_table_and_a_figure_are_renamed_and_its_texts_are_not() -> None:
    table = {"rows": [{"overrides": ["perturbation=none", "batch=small"]}], "notes": ["perturbation = theta", "a=b"]}
    figure = {"panels": [{"sweep": {"perturbation.a": [0.1]}, "runs": {"SB": ["regime=v1"]}}]}
    with pytest.warns(FutureWarning):
        values = to_plain_dict(config_of(table=table, figure=figure))
    assert values["table"]["rows"] == [{"overrides": ["method=none", "batch=small"]}]
    assert values["table"]["notes"] == table["notes"]
    assert values["figure"]["panels"] == [{"sweep": {"method.a": [0.1]}, "runs": {"SB": ["protocol=authors_code_v1"]}}]


def test_a_field_takes_the_name_that_it_has_in_records() -> None:
    with pytest.warns(FutureWarning, match=r"schedule\.drops: is now schedule\.milestones"):
        assert validate(Schedule, {"epochs": 3, "drops": [2]}, "schedule.") == Schedule(3, (2,))
