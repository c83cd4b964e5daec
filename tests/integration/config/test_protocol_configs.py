"""Settings: protocols and experiments have the settings of their sources, and every choice composes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from helpers.composed import choices, composed

from smoothout.config.experiment import build_experiment
from smoothout.nn.options import BatchNormInit
from smoothout.training.methods.smoothout import NoisePer, StrengthSchedule

ACCOUNTS: dict[str, dict[str, Any]] = {
    "paper_text": {
        "batchnorm_init": BatchNormInit.one,
        "optimizer": {"reset_every_epoch": False, "clip_norm": None, "weight_decay": 0.0},
        "method": {"noise_per": NoisePer.batch, "batchnorm": True, "strength_schedule": StrengthSchedule.constant},
        "data": {"pad_color": (127, 127, 127)},
    },
    "authors_code": {
        "batchnorm_init": BatchNormInit.uniform,
        "optimizer": {"reset_every_epoch": True, "clip_norm": 5.0, "weight_decay": 0.0},
        "method": {"noise_per": NoisePer.ghost, "batchnorm": False, "strength_schedule": StrengthSchedule.constant},
        "data": {"pad_color": (127, 0, 0)},
    },
    "authors_code_v1": {
        "batchnorm_init": BatchNormInit.uniform,
        "optimizer": {"reset_every_epoch": True, "clip_norm": 5.0, "weight_decay": 1e-4},
        "method": {"noise_per": NoisePer.ghost, "batchnorm": True, "strength_schedule": StrengthSchedule.tanh_falling},
        "data": {"pad_color": (127, 0, 0)},
    },
}
ACCOUNTS["keskar"] = ACCOUNTS[
    "paper_text"
]  # plain Adam too; what differs is in the experiments and in what is measured


@pytest.mark.parametrize("name", ["f1_mnist", "c1_cifar10", "c3_cifar100"])
@pytest.mark.parametrize("protocol", ACCOUNTS)
def test_a_protocol_sets_what_its_account_says_and_nothing_else(protocol: str, name: str) -> None:
    overrides = [f"experiment={name}", "method=smoothout"]
    without = build_experiment(composed(*overrides, "~protocol"))
    account = ACCOUNTS[protocol]
    expected = dataclasses.replace(
        without,
        batchnorm_init=account["batchnorm_init"],
        optimizer=dataclasses.replace(without.optimizer, **account["optimizer"]),
        method=dataclasses.replace(without.method, **account["method"]),
        data=dataclasses.replace(without.data, **account["data"]),
    )
    assert build_experiment(composed(*overrides, f"protocol={protocol}")) == expected


def test_every_protocol_is_an_account() -> None:
    assert choices("protocol") == sorted(ACCOUNTS)


def test_the_released_account_is_what_one_gets_without_asking() -> None:
    overrides = ["experiment=f1_mnist", "method=smoothout"]
    assert composed(*overrides) == composed(*overrides, "protocol=authors_code")


def test_what_is_given_by_hand_overrides_the_protocol() -> None:
    overrides = [
        "method=smoothout",
        "protocol=authors_code_v1",
        "method.strength_schedule=anneal",
        "optimizer.clip_norm=null",
    ]
    made = build_experiment(composed(*overrides))
    assert made.method.strength_schedule is StrengthSchedule.anneal
    assert made.optimizer.clip_norm is None
    assert made.optimizer.reset_every_epoch


FACTS = {  # model, data, batch small and large, epochs
    "f1_mnist": ("f1", "mnist", 256, 6000, 200),
    "c1_cifar10": ("c1", "cifar10", 256, 5000, 200),
    "c3_cifar100": ("c3", "cifar100", 256, 5000, 200),
}


KESKAR = {  # the same in Keskar et al.: 10% of the data, 100 epochs
    "keskar_f1_mnist": ("f1", "mnist", 256, 6000, 100),
    "keskar_c1_cifar10": ("keskar_c1", "cifar10", 256, 5000, 100),
    "keskar_c2_cifar10": ("keskar_c2", "cifar10", 256, 5000, 100),
    "keskar_c3_cifar100": ("keskar_c3", "cifar100", 256, 5000, 100),
    "keskar_c4_cifar100": ("keskar_c4", "cifar100", 256, 5000, 100),
    "keskar_f2_timit": ("f2", "timit", 256, 72_132, 100),
}
FACTS |= KESKAR


@pytest.mark.parametrize("name", FACTS)
def test_a_published_experiment_has_the_papers_model_data_batches_and_epochs(name: str) -> None:
    model, data, small, large, epochs = FACTS[name]
    for batch, size in (("small", small), ("large", large)):
        made = build_experiment(composed(f"experiment={name}", f"batch={batch}"))
        assert (made.model.name, made.data.name, made.batch.size, made.schedule.epochs) == (model, data, size, epochs)
        assert (made.optimizer.lr, type(made.optimizer).__name__) == (1e-3, "Adam")


@pytest.mark.parametrize("name", KESKAR)
def test_the_networks_of_keskar_et_al_see_pixels_from_0_to_1_or_plain_features(name: str) -> None:
    data = build_experiment(composed(f"experiment={name}", "protocol=keskar")).data
    channels = data.shape[0]
    assert (data.mean, data.std, data.augmentation) == ((0.0,) * channels, (1.0,) * channels, None)


def test_every_choice_composes_and_builds_with_each_protocol_and_profile() -> None:
    """Every experiment, with the other groups in turn; every method under every protocol, which sets parts of it."""
    groups = {group: choices(group) for group in ("method", "protocol", "batch", "profile")}
    chosen = [
        [f"experiment={name}", *(f"{group}={names[i % len(names)]}" for group, names in groups.items())]
        for i, name in enumerate(choices("experiment"))
    ]
    chosen = [[*one, "optimizer=adam"] if "method=msam" in one else one for one in chosen]  # it needs momentum
    chosen += [[f"method={m}", f"protocol={p}"] for m, p in itertools.product(groups["method"], groups["protocol"])]
    made = [build_experiment(composed(*overrides)) for overrides in chosen]
    with torch.device("meta"):  # equal networks are built once, without memory for their weights
        for model, shape, classes in {(one.model, one.data.shape, one.data.classes) for one in made}:
            model.build(shape, classes)
