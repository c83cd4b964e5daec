"""Settings: what cannot be used is refused in one line, and the YAML files say what the classes say."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import re
from typing import Any

import pytest
from helpers.composed import choices, composed

from smoothout.common.errors import ConfigError
from smoothout.config.build import build
from smoothout.config.experiment import Experiment, Profile, build_experiment
from smoothout.config.moved import MOVED, current_name
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule

GROUPS = ("model", "data", "optimizer", "schedule", "batch", "method", "profile", "analysis")
GONE = object()


@pytest.fixture(scope="module")
def f1(hydra: None) -> dict[str, Any]:
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


NOISE_KEYS = "allowed: a, distribution, scaling, batchnorm, denoise, noise_per, strength_schedule, copies"
BAD = [
    # key, value, what the line says after "key: "
    ("method.strength", 0.1, f"unknown key (did you mean strength_schedule?); {NOISE_KEYS}"),
    ("method.copys", 2, f"unknown key (did you mean copies?); {NOISE_KEYS}"),
    ("model.widht", 64, "unknown key (did you mean width?); allowed: width, depth, name"),
    ("method.a", "much", "'much' is not a number"),
    ("method.denoise", 2, "2 is not true or false"),
    ("method.copies", True, "True is not a whole number"),
    ("data.mean", ["???"], "['???'] is not a list, each a number"),
    ("profile.epochs", 1e308, "must be a share above 0, at most 1000, not 1e+308"),
    ("method.a", None, "None is not a number"),
    ("method.a", True, "True is not a number"),
    ("method.a", [0.1], "[0.1] is not a number"),
    ("method.a", math.nan, "must be finite, not nan"),
    ("method.a", "nan", "must be finite, not nan"),
    ("method.a", math.inf, "must be finite, not inf"),
    ("method.a", -0.1, "the noise's strength must be a finite number >= 0, not -0.1"),
    ("method.distribution", "cauchy", "'cauchy' is not one of uniform, gaussian"),
    ("method.distribution", None, "None is not one of uniform, gaussian"),
    ("method.scaling", "layer", "'layer' is not one of none, weight, filter"),
    ("method.noise_per", "step", "'step' is not one of ghost, batch"),
    ("method.strength_schedule", "cosine", "'cosine' is not one of constant, anneal, tanh_rising, tanh_falling"),
    ("method.denoise", "maybe", "'maybe' is not true or false"),
    ("method.copies", -1, "must be 0 (a fresh draw every time) or a number of copies, not -1"),
    ("method.copies", 1.5, "1.5 is not a whole number"),
    ("model.width", 0, "must be at least 1, not 0"),
    ("model.depth", 2.5, "2.5 is not a whole number"),
    ("model.depth", "???", "must be given: a whole number"),
    ("model.name", None, "None is not text"),
    ("model.dropout", 0.5, "unknown key; allowed: width, depth, name"),
    ("data.name", "svhn", "'svhn' is not one of digits, mnist, cifar10, cifar100"),
    ("data.mean", [0.5, 0.5], "mnist has 1 channel(s), so each needs as many numbers"),
    ("data.mean", "half", "'half' is not a list, each a number"),
    ("data.mean", [math.nan], "must be finite, not (nan,)"),
    ("data.std", [0.0], "must be finite, std above 0, not"),
    ("data.std", None, "None is not a list, each a number"),
    ("data.train_examples", 0, "must be null (all) or at least 1, not 0"),
    ("data.test_examples", 1.5, "1.5 is not a whole number or null"),
    ("profile.train_examples", 0, "must be null (all) or at least 1, not 0"),
    ("profile.test_examples", -1, "must be null (all) or at least 1, not -1"),
    ("profile.analysis_examples", 0, "must be null (all) or at least 1, not 0"),
    ("profile.epochs", 0.0, "must be a share above 0, at most 1000, not 0.0"),
    ("profile.epochs", math.nan, "must be finite, not nan"),
    ("batch.size", 0, "the batch must have at least 1 example, not 0"),
    ("batch.size", -256, "the batch must have at least 1 example, not -256"),
    ("batch.size", "large", "'large' is not a whole number"),
    ("batch.size", GONE, "must be given: a whole number"),
    ("batch.ghost", 6001, "must be null or between 1 and size = 6000, not 6001"),
    ("batch.ghost", 0, "must be null or between 1 and size = 6000, not 0"),
    ("schedule.epochs", 0, "must be at least 1, not 0"),
    ("schedule.epochs", GONE, "must be given: a whole number"),
    ("schedule.milestones", [0], "must be epochs from 1 on, not [0]"),
    ("schedule.milestones", [1.5], "[1.5] is not a list, each a whole number"),
    ("schedule.gamma", 0.0, "must be a finite number above 0, not 0.0"),
    ("optimizer.lr", -0.001, "must be a finite number above 0, not -0.001"),
    ("optimizer.lr", math.inf, "must be finite, not inf"),
    ("optimizer.lr", GONE, "must be given: a number"),
    ("optimizer.weight_decay", -1e-4, "must be a finite number >= 0, not -0.0001"),
    ("optimizer.clip_norm", 0.0, "must be null (no clipping) or a finite number above 0, not 0.0"),
    ("optimizer.reset_every_epoch", "often", "'often' is not true or false"),
    ("seed", -1, "must be a whole number >= 0, not -1"),
    ("seed", 0.5, "0.5 is not a whole number"),
    ("seed", True, "True is not a whole number"),
    ("seed", None, "None is not a whole number"),
    ("seed", "???", "must be given: a whole number"),
    ("precision", "float16", "'float16' is not one of float32, tf32, bfloat16"),
    ("batchnorm_init", "zero", "'zero' is not one of one, uniform"),
    ("seed", GONE, "is missing; a training needs"),
    ("method", GONE, "is missing; a training needs"),
    ("model", "f1", "must be a group of settings with a _target_, not 'f1'"),
    ("model", None, "must be a group of settings with a _target_, not None"),
    ("model._target_", "os.system", "'os.system' is no class of settings in the package smoothout"),
    ("model._target_", "torch.load", "'torch.load' is no class of settings in the package smoothout"),
    ("model._target_", "torch.nn.Linear", "'torch.nn.Linear' is no class of settings in the package smoothout"),
    (
        "model._target_",
        "smoothout.common.files.atomic_write_text",
        "'smoothout.common.files.atomic_write_text' is no class of settings",
    ),
    (
        "model._target_",
        "smoothout.common.files.os.system",
        "'smoothout.common.files.os.system' is no class of settings",
    ),
    ("model._target_", "smoothout.models.mlp.nn", "'smoothout.models.mlp.nn' is no class of settings"),
    ("model._target_", "smoothout.models.vit.ViT", "'smoothout.models.vit.ViT' is no class of settings"),
    ("model._target_", "smoothout.nn.perturbation.SmoothOut", "SmoothOut' is no class of settings"),
    ("model._target_", "smoothout", "'smoothout' is no class of settings"),
    ("model._target_", "smoothout_evil.models.MLP", "'smoothout_evil.models.MLP' is no class of settings"),
    (
        "method._target_",
        "smoothout.training.batch.Batch",
        "must be smoothout.training.methods.smoothout.NoiseConfig, not smoothout.training.batch.Batch",
    ),
    (
        "batch._target_",
        "smoothout.training.methods.smoothout.NoiseConfig",
        "must be smoothout.training.batch.Batch, not smoothout.training.methods.smoothout.NoiseConfig",
    ),
]


@pytest.mark.parametrize(("key", "value", "says"), BAD, ids=[f"{k}={'gone' if v is GONE else v}" for k, v, _ in BAD])
def test_a_bad_setting_is_refused_in_one_line_that_names_the_key_and_what_is_allowed(
    f1: dict[str, Any], key: str, value: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        build_experiment(changed(f1, key, value))
    line = str(refused.value)
    assert says in line
    assert len(line.splitlines()) == 1
    group, _, name = key.rpartition(".")
    assert line.startswith(f"{group}." if group else f"{name}:")
    assert name in line.partition(":")[0]


def test_a_batch_of_more_examples_than_are_in_use_is_refused(f1: dict[str, Any]) -> None:
    assert build_experiment(changed(f1, "data.train_examples", 6000)).data.train_examples == 6000
    with pytest.raises(ConfigError, match=r"^batch.size: 6000 is more than the 5999 training examples in use$"):
        build_experiment(changed(f1, "data.train_examples", 5999))


def test_a_profile_leaves_the_examples_of_one_update(f1: dict[str, Any]) -> None:
    assert build_experiment(changed(f1, "profile.train_examples", 6001)).data.train_examples == 6001
    assert build_experiment(changed(f1, "profile.train_examples", 100)).data.train_examples == 6000


def test_a_group_without_its_class_is_refused(f1: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model: must be a group of settings with a _target_, not {'name'.*$"):
        build_experiment(changed(f1, "model._target_", GONE))


def test_an_optimizer_must_be_one_that_can_be_built(f1: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer._target_: "):
        build_experiment(changed(f1, "optimizer._target_", "smoothout.training.optimizers.Optimizer"))


def test_a_model_must_be_a_model(f1: dict[str, Any]) -> None:
    other = {"_target_": "smoothout.config.experiment.Profile", "epochs": 1.0}
    with pytest.raises(ConfigError, match=r"^model._target_: "):
        build_experiment(changed(f1, "model", other))


@pytest.mark.parametrize("name", ["a/b", "../f1", "", "f1 mnist"])
def test_a_models_name_must_fit_into_a_file_name(f1: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model.name: "):
        build_experiment(changed(f1, "model.name", name))


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
def test_every_yaml_file_has_the_fields_of_its_class_and_no_other(hydra: None, chosen: dict[str, str]) -> None:
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    config = composed("~protocol", "~experiment", *overrides, name="analyze")
    for group in GROUPS:
        node = config[group]
        module, _, name = node.pop("_target_").rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        assert set(node) == {field.name for field in dataclasses.fields(cls)}, f"{group}={chosen[group]}"
        assert isinstance(build({"_target_": f"{module}.{name}", **node}, group), cls)


def test_every_file_of_a_group_names_itself(hydra: None) -> None:
    for group in ("model", "data"):
        for name in choices(group):
            config = composed("~protocol", "~experiment", f"{group}={name}")
            assert config[group]["name"] == name


def test_no_noise_and_the_papers_length_are_the_classes_defaults(f1: dict[str, Any], hydra: None) -> None:
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
