"""Configs are composed once, and anew where anything changed that they hang on."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothout.common.errors import ConfigError
from smoothout.config import compose as compose_module
from smoothout.config.compose import compose_config


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SMOOTHOUT_DATA", raising=False)
    (tmp_path / "made.yaml").write_text("a: 1\nlist: [1, 2]\nplace: ${oc.env:SMOOTHOUT_DATA,data}\n")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with each config that Hydra is asked for."""
    names, compose = list[str](), compose_module.compose

    def watched(config_name: str, overrides: list[str]) -> object:
        names.append(config_name)
        return compose(config_name, overrides)

    monkeypatch.setattr(compose_module, "compose", watched)
    return names


def test_what_was_composed_is_known_and_cannot_be_spoilt(configs: Path, asked: list[str]) -> None:
    first = compose_config(configs, "made", ["a=2"])
    first["list"].append(3)
    assert compose_config(configs, "made", ["a=2"]) == {"a": 2, "list": [1, 2], "place": "data"}
    assert asked == ["made"]
    assert compose_config(configs, "made", ["a=3"])["a"] == 3
    assert asked == ["made", "made"]


def test_a_folder_without_configs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^configs: .*/none must be the folder of this repository's configs"):
        compose_config(tmp_path / "none", "train", [])


def test_another_file_or_place_is_another_config(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose_config(configs, "made", [])["a"] == 1
    (configs / "made.yaml").write_text("a: 5\nplace: ${oc.env:SMOOTHOUT_DATA,data}\n")
    assert compose_config(configs, "made", []) == {"a": 5, "place": "data"}
    monkeypatch.setenv("SMOOTHOUT_DATA", "elsewhere")
    assert compose_config(configs, "made", [])["place"] == "elsewhere"
