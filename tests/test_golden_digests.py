"""The names of the experiments' records: pinned, so that no change of the program can rename them unnoticed.

A digest here may change for one reason alone: the outcome of that experiment changed, and ``Experiment.numerics`` was
raised for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothout.jobs import Job
from smoothout.settings import compose_config, experiment

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

GOLDEN = {
    "experiment=f1_mnist batch=small": "9dcdd3f6b82baeaab5fb437d5224f0aa10371e1252fde2033a188148209a1cc3",
    "experiment=f1_mnist batch=large": "c2c03e27a14df728590e9e4e30b4aaf7b5b75c9bb4ed426bb15c9489e7f2a604",
    "experiment=f1_mnist batch=large perturbation=smoothout": (
        "0a1eefbe56f528f0669d34441a148e4359a3582dd68825c251e0f5d34aa7889f"
    ),
    "experiment=f1_mnist batch=large perturbation=smoothout seed=1": (
        "20cb60671b403fb01a90b1063e7493238f561f55353c2917029041664e871d15"
    ),
    "experiment=f1_mnist batch=large perturbation=smoothout regime=described": (
        "62736e2e2881ec8a1c1ea9259df145aef850714e192ab5bc1ee0ed481599e8d7"
    ),
    "experiment=f1_mnist batch=large perturbation=smoothout regime=v1": (
        "b376abb5bab1d03ae0e3d26190af62c2f15ac19b2d96dc7e399ef6c26125f873"
    ),
    "experiment=f1_mnist batch=large perturbation=smoothout profile=short": (
        "6f7845edd32967c5b897766e2b0785c8dbb7a4deabf67281671af0ea72b84f16"
    ),
    "experiment=c1_cifar10 batch=small": "d36c38248114065c867ca83dd17234d41ec23ca9d935056f6cdc00cf98bfdd75",
    "experiment=c1_cifar10 batch=large perturbation=smoothout": (
        "d6c95e8c4c30a6c4ff24b5cd46945a2f9c481a82d958c6971a89b1f83446a814"
    ),
    "experiment=c1_cifar10 batch=large perturbation=adasmoothout precision=bfloat16": (
        "977fe9b2ada4c489d5c6d64598d473d0312ac3d7d670706984ff596667f9a912"
    ),
    "experiment=c3_cifar100 batch=large": "1784ccad5b091b55d54b9deef719e1893d7354ae44c0a516af212578632a7df9",
    "experiment=c3_cifar100 batch=small perturbation=smoothout profile=smoke": (
        "22f2b7f13f0b14df6d571cc40fd7825e630fd6faeb058af55a7e31c6a9e9ad89"
    ),
    "experiment=digits": "734516ff09d889796aba8ecea8f4a31a1cd22a050cb82dd14565bc81bb9ead04",
    "experiment=digits batch=large perturbation=smoothout batch.ghost=32": (
        "62b9982dd5da30956d9d562f8ed1927c94fdd59235cec3dbc53152bd109db53f"
    ),
    "experiment=digits optimizer=momentum schedule.drops=[30,45]": (
        "1e1a8bd0ba035e6a38f8b8c9787040e58508098545db3ea70f435ef19dd397f1"
    ),
}
F1 = "experiment=f1_mnist batch=large perturbation=smoothout"


def job(overrides: str) -> Job:
    return Job(experiment(compose_config(CONFIGS, "train", overrides.split())))


@pytest.mark.parametrize("overrides", GOLDEN)
def test_the_digest_of_a_published_experiment_is_the_pinned_one(overrides: str) -> None:
    assert job(overrides).digest == GOLDEN[overrides]


def test_a_records_name_is_readable_and_ends_in_eight_digits_of_its_digest() -> None:
    assert job(F1).name == "f1-mnist-b6000-smoothout0.0375-e200-s0-0a1eefbe"
    assert job("experiment=digits").name == "small_mlp-digits-b32-baseline-e60-s0-734516ff"


def test_a_setting_that_is_given_its_default_leaves_the_digest_alone() -> None:
    defaults = (
        "perturbation.a=0.0375 perturbation.law=uniform perturbation.denoise=true perturbation.copies=0"
        " batch.ghost=null precision=float32 seed=0 model.width=512 data.train_examples=null optimizer.weight_decay=0"
    )
    assert job(f"{F1} {defaults}").digest == GOLDEN[F1]


def test_without_strength_no_other_setting_of_the_noise_matters() -> None:
    noise = (
        "perturbation.a=0 perturbation.law=gaussian perturbation.scaling=weight perturbation.batchnorm=true"
        " perturbation.denoise=false perturbation.draw=batch perturbation.course=anneal"
    )
    baseline = "experiment=f1_mnist batch=large"
    assert job(f"{baseline} {noise}").digest == GOLDEN[baseline]
    assert job(f"{baseline} perturbation=adasmoothout perturbation.a=0").digest == GOLDEN[baseline]


def test_the_place_where_a_job_runs_does_not_matter() -> None:
    place = (
        "device=cuda:3 threads=7 download=false tensorboard=false checkpoint_seconds=1 folders.data=elsewhere"
        " folders.results=elsewhere folders.checkpoints=elsewhere folders.logs=elsewhere epoch_seconds.large=99"
    )
    assert job(f"{F1} {place}").digest == GOLDEN[F1]


def test_the_names_of_model_and_profile_do_not_matter() -> None:
    assert job(f"{F1} model.name=another").digest == GOLDEN[F1]
    assert job(f"{F1} schedule.epochs=20").digest == GOLDEN[f"{F1} profile=short"]
    assert job(f"{F1} profile=short profile.epochs=1.0").digest == GOLDEN[F1]


def test_a_ghost_batch_of_the_whole_batch_and_drops_after_the_end_do_not_matter() -> None:
    assert job(f"{F1} batch.ghost=6000 schedule.drops=[200] schedule.factor=0.5").digest == GOLDEN[F1]


@pytest.mark.parametrize(
    "override",
    [
        "seed=2",
        "precision=bfloat16",
        "batchnorm_start=one",
        "model.width=511",
        "data.std=[0.4]",
        "data.test_examples=9999",
        "optimizer.lr=0.002",
        "optimizer.clip_norm=null",
        "optimizer.reset_every_epoch=false",
        "schedule.epochs=199",
        "schedule.drops=[100]",
        "batch.ghost=128",
        "perturbation.a=0.0376",
        "perturbation.law=gaussian",
        "perturbation.course=anneal",
    ],
)
def test_a_setting_that_changes_the_outcome_changes_the_digest(override: str) -> None:
    assert job(f"{F1} {override}").digest != GOLDEN[F1]
