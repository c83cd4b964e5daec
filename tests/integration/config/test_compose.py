"""Configs are composed once, and again only if something that they depend on has changed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

from smoothout.common.errors import ConfigError
from smoothout.config import compose as compose_module
from smoothout.config.compose import compose_config, config_names, search_path


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SMOOTHOUT_DATA", raising=False)
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "made.yaml").write_text("a: 1\nlist: [1, 2]\nplace: ${oc.env:SMOOTHOUT_DATA,data}\n")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with each config that Hydra is asked for."""
    names, ask = list[str](), compose_module._ask_hydra

    def watched(folder: Path, name: str, overrides: tuple[str, ...], **settings: bool) -> dict[str, Any]:
        names.append(name)
        return ask(folder, name, overrides, **settings)

    monkeypatch.setattr(compose_module, "_ask_hydra", watched)
    return names


def forget() -> None:
    """As in another process: only the files are left."""
    compose_module._composed.cache_clear()
    compose_module._read_files.cache_clear()


def test_what_was_composed_is_known_and_cannot_be_corrupted(configs: Path, asked: list[str]) -> None:
    first = compose_config(configs, "made", ["a=2"])
    first["list"].append(3)
    assert compose_config(configs, "made", ["a=2"]) == {"a": 2, "list": [1, 2], "place": "data"}
    assert asked == ["made"]
    assert compose_config(configs, "made", ["a=3"])["a"] == 3
    assert asked == ["made", "made"]


def test_a_folder_without_configs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^configs: .*/none has no train.yaml; must be the folder configs/"):
        compose_config(tmp_path / "none", "train", [])


def test_another_file_or_place_is_another_config(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose_config(configs, "made", [])["a"] == 1
    (configs / "made.yaml").write_text("a: 5\nplace: ${oc.env:SMOOTHOUT_DATA,data}\n")
    assert compose_config(configs, "made", []) == {"a": 5, "place": "data"}
    monkeypatch.setenv("SMOOTHOUT_DATA", "elsewhere")
    assert compose_config(configs, "made", [])["place"] == "elsewhere"


def test_another_process_reads_what_was_composed(
    configs: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compose_config(configs, "made", ["a=2"])
    forget()
    assert compose_config(configs, "made", ["a=2"]) == first
    assert asked == ["made"]
    [kept] = (configs.parent / ".cache").rglob("*.json")
    kept.write_text("{ torn")
    forget()
    assert compose_config(configs, "made", ["a=2"]) == first
    monkeypatch.setenv("SMOOTHOUT_DATA", "elsewhere")
    forget()
    assert compose_config(configs, "made", ["a=2"])["place"] == "elsewhere"
    assert asked == ["made"] * 2  # variables are filled in later
    (configs / "other.yaml").write_text("b: 1\n")
    assert compose_config(configs, "made", ["a=2"])["a"] == 2
    assert not kept.exists()  # of files that no longer exist
    assert asked == ["made"] * 3


def test_variables_have_the_values_that_hydra_gives_them(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "folder: ${oc.env:SMOOTHOUT_DATA,some/data}\nsub: [{path: '${folder}/sub and ${oc.env:SMOOTHOUT_DATA,4}'}]\n"
        "literal: \\${a}\n"
    )
    (configs / "made.yaml").write_text(text)
    for value in (None, "elsewhere", "", "${odd} \\1"):
        monkeypatch.delenv("SMOOTHOUT_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("SMOOTHOUT_DATA", value)
        with initialize_config_dir(config_dir=str(configs), version_base="1.3"):
            wanted = OmegaConf.to_container(compose("made"), resolve=True)
        assert compose_config(configs, "made", []) == wanted
        with initialize_config_dir(config_dir=str(configs), version_base="1.3"):
            assert OmegaConf.to_container(compose("made"), resolve=True) == wanted, "the resolver is OmegaConf's again"


def test_folders_of_ones_own_add_to_the_configs(configs: Path, tmp_path: Path) -> None:
    """As with --config-dir; what is kept on disk of them does not touch what is kept of configs/ alone."""
    (configs / "group").mkdir()
    (configs / "group" / "shared.yaml").write_text("b: 1\n")
    compose_config(configs, "made", ["+group=shared"])
    own = tmp_path / "ö w'n" / "group"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("b: 3\n")
    (own / "shared.yaml").write_text("b: 1\n")  # the same text
    (own / "folder.yaml").mkdir()
    folders = (configs, own.parent)
    assert config_names(folders, "group") == ["mine", "shared"]
    assert compose_config(folders, "made", ["+group=shared"])["group"] == {"b": 1}
    assert compose_config(folders, "made", ["+group=mine"])["group"] == {"b": 3}
    assert compose_config(configs, "made", ["+group=mine", *search_path(folders)])["group"] == {"b": 3}
    (own / "mine.yaml").write_text("b: 4\n")
    forget()
    assert compose_config(folders, "made", ["+group=mine"])["group"] == {"b": 4}
    assert {path.parent.parent.name for path in (configs.parent / ".cache").rglob("*.json")} == {
        "configs",
        "configs_added",
    }
    with pytest.raises(ConfigError, match=r"^group: 'mine' is not one of shared$"):
        compose_config(configs, "made", ["+group=mine"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "must be a folder"),
        ("a\\b", "must be a folder, without"),
        ("same", r"same/group/shared\.yaml has the name of a file in configs/"),
    ],
)
def test_a_folder_that_hydra_would_ignore_is_refused(configs: Path, tmp_path: Path, name: str, message: str) -> None:
    for folder, number in ((configs, 1), (tmp_path / "same", 2)):
        (folder / "group").mkdir(parents=True)
        (folder / "group" / "shared.yaml").write_text(f"b: {number}\n")
    with pytest.raises(ConfigError, match=rf"^configs: .*{message}"):
        compose_config((configs, tmp_path / name), "made", [])


@pytest.mark.parametrize(
    "line",
    [
        "b: ${oc.env:${a}}",
        "b: ${now:%S}",
        "b: ${oc.decode:${oc.env:SMOOTHOUT_DATA,4}}",
        "b: ${oc.env:SMOOTHOUT_DATA,null}",
        "b: ${oc.env:SMOOTHOUT_DATA,NULL}\nc: ${oc.env:SMOOTHOUT_DATA,data}",
        "b: ${oc.env:SMOOTHOUT_DATA}",
        "defaults:\n  - ${oc.env:SMOOTHOUT_DATA,made}",
    ],
)
def test_a_config_that_depends_on_more_than_files_is_not_kept(
    configs: Path, line: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (configs / "other.yaml").write_text(line)
    assert compose_config(configs, "made", [])["place"] == "data"
    assert compose_config(configs, "made", [])["a"] == 1
    assert len(asked) == 1
    monkeypatch.setenv("SMOOTHOUT_DATA", "elsewhere")
    assert compose_config(configs, "made", [])["place"] == "elsewhere"
    assert not (configs.parent / ".cache").exists()


def test_a_folder_that_cannot_be_written_does_not_matter(configs: Path) -> None:
    (configs.parent / ".cache").write_text("not a folder")
    assert compose_config(configs, "made", [])["a"] == 1


@pytest.mark.parametrize("overrides", [[], ["unknown=1"]])
def test_the_callers_own_hydra_is_left_as_it_was(configs: Path, tmp_path: Path, overrides: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text("x: 1\n")
    with initialize_config_dir(config_dir=str(tmp_path / "mine"), version_base="1.2"):
        instance, hydra, base = GlobalHydra.instance(), GlobalHydra.instance().hydra, VersionBase.instance().getbase()
        gc.disable()
        try:
            compose_config(configs, "made", overrides)
        except ConfigError:
            assert overrides
        assert not gc.isenabled()
        gc.enable()
        assert GlobalHydra.instance() is instance
        assert instance.hydra is hydra
        assert VersionBase.instance().getbase() == base
        assert compose("mine") == {"x": 1}


def test_without_hydra_of_the_caller_none_is_left(configs: Path) -> None:
    GlobalHydra.instance().clear()
    compose_config(configs, "made", [])
    assert not GlobalHydra.instance().is_initialized()
