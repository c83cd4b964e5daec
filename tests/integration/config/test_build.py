"""Settings: what cannot be used is refused in one line, and the YAML files say what the classes say."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import re
from enum import Enum
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import pytest
import yaml
from helpers.composed import choices, composed
from helpers.paths import CONFIGS

from smoothout.common.errors import ConfigError
from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, Profile, build_experiment
from smoothout.config.moved import MOVED, current_name
from smoothout.data.image_arrays import ImageArrays
from smoothout.models.mlp import MLP
from smoothout.nn.options import Precision
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule

GROUPS = ("model", "data", "optimizer", "schedule", "batch", "method", "profile", "analysis")
GONE = object()


@pytest.fixture(scope="module")
def f1() -> dict[str, Any]:
    """F1 on MNIST with SmoothOut, composed."""
    return composed("experiment=f1_mnist", "batch=large", "method=smoothout")


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``config`` with ``value`` at ``key``, or without that key for GONE."""
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    node = config
    for name in path:
        node = node[name]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    return config


def refused(config: dict[str, Any], key: str, *words: object) -> None:
    """Building ``config`` fails in one line that begins with ``key`` and has all ``words``."""
    with pytest.raises(ConfigError) as error:
        build_experiment(config)
    line = str(error.value)
    group, _, name = key.rpartition(".")
    assert line.startswith(f"{group}." if group else f"{name}:"), line
    assert name in line.partition(":")[0].replace(",", "").split(".")[-1].split(), line
    assert [str(word) for word in words if str(word) not in line] == []
    assert len(line.splitlines()) == 1


WRONG: dict[type, tuple[Any, ...]] = {
    int: ("many", 1.5, True, [1]),
    float: ("much", True, [0.1], math.nan, "nan", math.inf),
    bool: ("maybe", 2),
    str: ([], {}),
    tuple: ("some", 3, ["???"]),
}


def _typed_fields() -> list[tuple[str, Any, type[Any] | None, bool]]:
    """Key, field type, enum and whether null is allowed, of every setting of F1 with SmoothOut."""
    classes = {
        "model": MLP,
        "data": ImageArrays,
        "optimizer": Adam,
        "schedule": Schedule,
        "batch": Batch,
        "method": NoiseConfig,
        "profile": Profile,
    }
    found = []
    for group, cls in classes.items():
        for name, hint in get_type_hints(cls).items():
            if get_origin(hint) is ClassVar or name not in {field.name for field in dataclasses.fields(cls)}:
                continue
            options = [option for option in (get_args(hint) if get_origin(hint) is not tuple else ()) if option]
            null = type(None) in options
            plain = next((option for option in options if option is not type(None)), hint)
            kind = get_origin(plain) or plain
            found.append((f"{group}.{name}", kind, kind if issubclass(kind, Enum) else None, null))
    return [*found, ("seed", int, None, False), ("precision", Precision, Precision, False)]


@pytest.mark.parametrize(("key", "kind", "choice", "null"), _typed_fields(), ids=str)
def test_a_value_of_another_type_is_refused_by_key_and_value(
    f1: dict[str, Any], key: str, kind: type, choice: type[Enum] | None, null: bool
) -> None:
    if choice is not None:
        refused(changed(f1, key, "nonsense"), key, "'nonsense'", *choice.__members__)
    for value in () if choice is not None else WRONG[kind]:
        refused(changed(f1, key, value), key, "nan" if value == "nan" else value)
    if not null:
        refused(changed(f1, key, None), key, None)
        refused(changed(f1, key, "???"), key, "must be given")


OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "method.a": (-0.1,),
    "method.copies": (-1,),
    "model.width": (0,),
    "model.depth": (0,),
    "model.name": ("a/b", "../f1", "", "f1 mnist"),
    "data.mean": ([math.nan],),
    "data.std": ([0.0],),
    "data.pad_color": ([1], [0, 0, 256]),
    "data.train_examples": (0,),
    "data.test_examples": (-1,),
    "data.validation_size": (0,),
    "profile.train_examples": (0,),
    "profile.test_examples": (-1,),
    "profile.analysis_examples": (0,),
    "profile.epochs": (0.0, 1e308),
    "batch.size": (0, -256),
    "batch.ghost": (0, 6001),
    "batch.multiplier": (0,),
    "schedule.epochs": (0,),
    "schedule.milestones": ([0],),
    "schedule.gamma": (0.0,),
    "schedule.warmup_epochs": (-1,),
    "schedule.base_batch_size": (0,),
    "optimizer.lr": (0.0, -0.001),
    "optimizer.weight_decay": (-1e-4,),
    "optimizer.clip_norm": (0.0,),
    "seed": (-1,),
    "epoch_multiplier": (0, 2000),
}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_key_and_value(f1: dict[str, Any], key: str) -> None:
    for value in OUT_OF_RANGE[key]:
        refused(changed(f1, key, value), key, str(value).strip("[]"))


ANALYSES_OUT_OF_RANGE: dict[str, dict[str, tuple[Any, ...]]] = {
    "sharpness": {
        "eps": (0.0, -1.0, math.nan),
        "iterations": (0,),
        "subspace": (0,),
        "examples": (0,),
        "repeats": (0,),
    },
    "adaptive_sharpness": {"rho": (0.0,), "norm": ("l3",), "random_starts": (-1,), "split": ("by_convention",)},
    "search_comparison": {"eps": (0.0,), "budget": (0,), "subspace": (0,), "iterations": (0,)},
    "interpolation": {"points": (1,), "start": (9.0,), "path": ("straight",), "running_stats": ("old",)},
    "noise_curve": {"strengths": ([], [0.1], [0.2, 0.1], [-0.1, 0.1]), "batch": (0,), "draws": (0,)},
    "landscape": {"directions": (0,), "points": (1,), "one_dimensional": ("free",)},
    "plane": {"stop": (-9.0,), "split": ("by_convention",)},
    "hessian": {
        "eigenvalues": (0,),
        "probes": (1,),
        "spectrum_probes": (-1,),
        "spectrum_steps": (0,),
        "tolerance": (2.0,),
    },
}


@pytest.mark.parametrize("name", ANALYSES_OUT_OF_RANGE)
def test_an_analysis_refuses_values_out_of_range_by_key(name: str) -> None:
    node = composed(f"analysis={name}", name="analyze")["analysis"]
    for key, values in ANALYSES_OUT_OF_RANGE[name].items():
        for value in values:
            with pytest.raises(ConfigError, match=rf"^analysis\.[^:]*{key}.*: ") as error:
                build(node | {key: value}, "analysis")
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"), [("method.copys", "copies"), ("model.widht", "width"), ("model.dropout", "width, depth, name")]
)
def test_an_unknown_key_is_refused_with_those_there_are(f1: dict[str, Any], key: str, meant: str) -> None:
    refused(changed(f1, key, 1), key, "unknown", meant)


@pytest.mark.parametrize("key", ["seed", "method", "batch.size", "schedule.epochs", "optimizer.lr"])
def test_what_is_missing_is_named(f1: dict[str, Any], key: str) -> None:
    refused(changed(f1, key, GONE), key)


@pytest.mark.parametrize("value", ["f1", None])
def test_a_group_is_no_single_value(f1: dict[str, Any], value: object) -> None:
    refused(changed(f1, "model", value), "model", "_target_", repr(value))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.Linear",
        "smoothout",
        "smoothout.common.files.atomic_write_text",
        "smoothout.common.files.os.system",
        "smoothout.models.mlp.nn",
        "smoothout.models.vit.ViT",
        "smoothout.nn.perturbation.SmoothOut",
        "smoothout_evil.models.MLP",
    ],
)
def test_a_config_names_nothing_but_classes_of_settings(f1: dict[str, Any], target: str) -> None:
    refused(changed(f1, "model._target_", target), "model._target_", repr(target))


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("method", "smoothout.training.batch.Batch"),
        ("batch", "smoothout.training.methods.smoothout.NoiseConfig"),
        ("optimizer", "smoothout.training.optimizers.Optimizer"),
        ("model", "smoothout.config.experiment.Profile"),
    ],
)
def test_a_component_has_its_role(f1: dict[str, Any], key: str, other: str) -> None:
    refused(changed(f1, key, {"_target_": other}), f"{key}._target_", other)


def test_a_batch_of_more_examples_than_are_in_use_is_refused(f1: dict[str, Any]) -> None:
    assert build_experiment(changed(f1, "data.train_examples", 6000)).data.train_examples == 6000
    refused(changed(f1, "data.train_examples", 5999), "batch.size", 6000, 5999)


def test_a_profile_leaves_the_examples_of_one_update(f1: dict[str, Any]) -> None:
    assert build_experiment(changed(f1, "profile.train_examples", 6001)).data.train_examples == 6001
    assert build_experiment(changed(f1, "profile.train_examples", 100)).data.train_examples == 6000


def test_a_group_without_its_class_is_refused(f1: dict[str, Any]) -> None:
    refused(changed(f1, "model._target_", GONE), "model", "_target_")


def test_a_good_config_becomes_typed_settings(f1: dict[str, Any]) -> None:
    made = build_experiment(changed(f1, "method.strength_schedule", "tanh_rising"))
    assert isinstance(made, Experiment)
    assert made.method == NoiseConfig(a=0.0375, strength_schedule=StrengthSchedule.tanh_rising)
    assert made.method.strength_schedule is StrengthSchedule.tanh_rising
    assert made.data.mean == (0.5,)
    assert made.schedule.milestones == ()
    assert hash(made) == hash(build_experiment(changed(f1, "method.strength_schedule", "tanh_rising")))


def test_the_smaller_of_two_limits_on_examples_holds(f1: dict[str, Any]) -> None:
    both = changed(changed(f1, "data.train_examples", 9000), "profile.train_examples", 8000)
    assert build_experiment(both).data.train_examples == 8000
    assert build_experiment(changed(both, "profile.train_examples", 9999)).data.train_examples == 9000
    assert build_experiment(changed(both, "profile.train_examples", None)).data.train_examples == 9000


def test_a_profile_shortens_the_epochs_and_moves_the_drops_along(f1: dict[str, Any]) -> None:
    config = changed(changed(f1, "schedule.milestones", [100, 150]), "profile.epochs", 0.1)
    made = build_experiment(config).schedule
    assert (made.epochs, made.milestones) == (20, (10, 15))
    assert build_experiment(changed(config, "profile.epochs", 1e-6)).schedule.epochs == 1


def _every_choice() -> list[dict[str, str]]:
    """Choices of all groups such that every file of every group is chosen at least once."""
    longest = max(len(choices(group)) for group in GROUPS)
    return [{group: choices(group)[i % len(choices(group))] for group in GROUPS} for i in range(longest)]


@pytest.mark.parametrize("chosen", _every_choice(), ids=lambda chosen: "-".join(chosen.values()))
def test_every_yaml_file_has_the_fields_of_its_class_and_no_other(chosen: dict[str, str]) -> None:
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    config = composed("~protocol", "~experiment", *overrides, name="analyze")
    for group in GROUPS:
        node = config[group]
        module, _, name = node.pop("_target_").rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        assert set(node) == {field.name for field in dataclasses.fields(cls)}, f"{group}={chosen[group]}"
        assert isinstance(build({"_target_": f"{module}.{name}", **node}, group), cls)


def test_every_file_of_a_group_names_itself() -> None:
    for group in ("model", "data"):
        for name in choices(group):
            assert yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))["name"] == name


def test_no_noise_and_the_papers_length_are_the_classes_defaults(f1: dict[str, Any]) -> None:
    config = composed("~protocol", "method=none")
    assert build(config["method"], "method") == NoiseConfig()
    assert build(f1["profile"], "profile") == Profile()


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_target_of_an_earlier_version_is_made_with_a_warning_that_names_both(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=rf"^here\._target_: {re.escape(old)} is now {re.escape(new)}$"):
        assert current_name(old, "here") == new
    module, _, name = new.rpartition(".")
    assert dataclasses.is_dataclass(getattr(importlib.import_module(module), name))
    assert current_name(new, "here") == new


@pytest.mark.parametrize("optimizer", [["sgd"], ["momentum", "optimizer.momentum=0"]])
def test_msam_with_an_optimizer_without_momentum_is_refused_before_anything_is_made(optimizer: list[str]) -> None:
    choice, *rest = optimizer
    with pytest.raises(ConfigError, match=r"^optimizer: must have momentum, which msam0\.3 needs"):
        build_experiment(compose_config(CONFIGS, "train", ["method=msam", f"optimizer={choice}", *rest]))
