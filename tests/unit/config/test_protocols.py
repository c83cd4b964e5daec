"""Every component that a config names has the members of its role, and an error names all that are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.common import a_record
from helpers.paths import CONFIGS

from smoothout import models
from smoothout.analysis.jobs.base import AnalysisJob
from smoothout.common.errors import ConfigError
from smoothout.config.build import build
from smoothout.config.protocols import Data, Model, missing_members
from smoothout.results import summary
from smoothout.training.optimizers import Optimizer

ROLES = {"model": Model, "data": Data, "optimizer": Optimizer, "analysis": AnalysisJob}


def nodes(group: str) -> list[dict[str, Any]]:
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONFIGS / group).glob("*.yaml")]
    return [node.get(group, node) for node in found]


@pytest.mark.parametrize("group", ROLES)
def test_every_config_names_a_component_of_its_role(group: str) -> None:
    targets = {node["_target_"] for node in nodes(group) if "_target_" in node}
    assert len(targets) > 1
    for target in targets:
        node = next(node for node in nodes(group) if node.get("_target_") == target)
        settings: Any = {key: value for key, value in node.items() if value != "???" and "${" not in str(value)}
        assert missing_members(type(build(settings, group)), ROLES[group]) == []


def test_no_two_components_of_a_role_have_one_name() -> None:
    """A record's identity has a component's class, without its module."""
    targets = {node["_target_"] for group in ROLES for node in nodes(group) if "_target_" in node}
    assert len({target.rpartition(".")[2] for target in targets}) == len(targets)


def test_members_may_be_fields_methods_or_constants() -> None:
    @dataclass(frozen=True)
    class Half:
        name: str

        def build(self) -> None: ...

    assert missing_members(Half, Model) == ["initializes_batchnorm"]
    assert "examples_seen" in missing_members(Half, AnalysisJob)


def test_all_members_that_are_missing_are_named_at_once() -> None:
    node = {"_target_": "smoothout.training.batch.Batch", "size": 2}
    told = "smoothout.training.batch.Batch cannot be the model: it lacks initializes_batchnorm, name, build"
    with pytest.raises(ConfigError) as error:
        build(node, "model", role=Model)
    assert str(error.value) == f"model._target_: {told}"


def test_an_analysis_without_its_own_summary_is_told_by_its_numbers() -> None:
    outcome = {"wall_seconds": 3.0, "flatness": 0.125, "points": 7, "weights": ["00"]}
    assert summary.analysis_summary(a_record("flatness", outcome)) == "name: flatness 0.125; points 7"


def test_a_module_that_imports_what_is_not_there_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import einopps\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(ConfigError) as error:
        build({"_target_": "smoothout.models.mine.Net"}, "model", role=Model)
    reason = "'smoothout.models.mine.Net' cannot be imported: No module named 'einopps'"
    assert str(error.value) == f"model._target_: {reason}"
