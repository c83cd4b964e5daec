"""The names of the experiments' records: pinned, so that no change of the program can rename them unnoticed.

A digest here may change for one reason alone: the outcome of that experiment changed, and ``Experiment.numerics`` was
raised for it.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.paths import CONFIGS

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, InterpolationPath, RunningStats
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record, RecordStore

GOLDEN = {
    "experiment=f1_mnist batch=small": "9dcdd3f6b82baeaab5fb437d5224f0aa10371e1252fde2033a188148209a1cc3",
    "experiment=f1_mnist batch=large": "c2c03e27a14df728590e9e4e30b4aaf7b5b75c9bb4ed426bb15c9489e7f2a604",
    "experiment=f1_mnist batch=large method=smoothout": (
        "f7cd51b397c40a7ab9c1bc40e3839d444ce2e679cf8fd8b592af541ef94a4680"
    ),
    "experiment=f1_mnist batch=large method=smoothout seed=1": (
        "b2b476d53b85a3891dabe7f91676055a46b47e8a07d600427cd3e6fb7c87f662"
    ),
    "experiment=f1_mnist batch=large method=smoothout protocol=paper_text": (
        "9052a20746ed457399d10fe6ceb5ab9d399403b247bc3cbd4d39edf9b802699d"
    ),
    "experiment=f1_mnist batch=large method=smoothout protocol=authors_code_v1": (
        "d504d859b059bcd6a233529052d39eaa2e07271331850f7b42c3e115faf227ff"
    ),
    "experiment=f1_mnist batch=large method=smoothout profile=short": (
        "44092008173d6a327dcac629639a3c16c5d05b43d80728814158e024a203384f"
    ),
    "experiment=mlp4_fashion_mnist protocol=paper_text optimizer.lr=0.005": (
        "59f761dc65bf52092d73dd361dbf53f2c6afa71b14b62a57253a06f58ae0ea45"
    ),
    "experiment=resnet56_cifar10 protocol=paper_text": (
        "d45bd71c0bfed089792e436b2d4de824e155ac87956c5aa0ae539f318e65f67d"
    ),
    "experiment=vgg11_cifar10 protocol=paper_text": (
        "5cd410d7ec3a402cf22d600c308b19b78471b57402187a277f18352f32b48bd1"
    ),
    "experiment=mlp4_fashion_mnist protocol=paper_text batch=large method=adasmoothout method.a=0.0375": (
        "72c64e266a62190f8e9cd990e4aa29493b8e64a7b49b4967bca7ec49e7102c37"
    ),
    "experiment=c1_cifar10 batch=small": "d36c38248114065c867ca83dd17234d41ec23ca9d935056f6cdc00cf98bfdd75",
    "experiment=c1_cifar10 batch=large method=smoothout": (
        "b95bac53ceaab85cf194b066b0c18db7d37a846f0c101b822f0994d113b72044"
    ),
    "experiment=c1_cifar10 batch=large method=adasmoothout precision=bfloat16": (
        "66dd1532f4b87cce6ab8d1970de3806e422900c7a3567c9aa961c90e7ec3c5d8"
    ),
    "experiment=c3_cifar100 batch=large": "1784ccad5b091b55d54b9deef719e1893d7354ae44c0a516af212578632a7df9",
    "experiment=c3_cifar100 batch=small method=smoothout profile=smoke": (
        "18dc5512c263bf4739936ed30dd90034e5d13ed0fee72e646d66cc1e3e8bf40a"
    ),
    "experiment=resnet44_cifar10 batch=ghost method=adasmoothout": (
        "22c0e708f08e65638273af6bcc1c1736b515f468ba7a313203108549ddfb0d65"
    ),
    "experiment=resnet44_cifar100 batch=small epoch_multiplier=2": (
        "b597c6d6671d757b20188cb3d98563ba755d5619cdc61bb09265462eb4f162c0"
    ),
    "experiment=resnet44_cifar10 batch=ghost precision=bfloat16 profile=short": (
        "71142afd7fed981df810d6c90440d69c82c1d649ae2719723eb506386745ae45"
    ),
    "experiment=keskar_f1_mnist batch=large protocol=keskar": (
        "2fbfc50d63ab5259d59895fdf3924930e5f5fa3ba6660dab3ef34e8a386e583b"
    ),
    "experiment=keskar_c1_cifar10 batch=small protocol=keskar": (
        "f4004599a2b899ffcae5fdfed6d0ad6cee268f4d8bf5a7598e2404e1e06ccc87"
    ),
    "experiment=keskar_c1_cifar10 batch=small protocol=keskar model.stride=1": (
        "9a8826d065ec9f339e8e6d953b93c093d07b96be0a2a902af795b4236da98556"
    ),
    "experiment=keskar_c2_cifar10 batch=large protocol=keskar": (
        "372e7578ff25168005dd8c866284f76cb38b29f5622ad1f82e6265d52acb7bd6"
    ),
    "experiment=keskar_c3_cifar100 batch=large protocol=keskar": (
        "4cc808ac3df0df065a30052dad1db66f8dc4b10053603e761e66a2d0096f91d9"
    ),
    "experiment=keskar_f2_timit batch=large protocol=keskar": (
        "ee54fd0eccb3d070940152487ffd9239234d03a8b82a1e44e2e85137faae292a"
    ),
    "experiment=digits": "734516ff09d889796aba8ecea8f4a31a1cd22a050cb82dd14565bc81bb9ead04",
    "experiment=digits batch=large method=smoothout batch.ghost=32": (
        "5d072f8108f3311fe5a9056c1cbd856170b16fedbe6ec27be8b71d3a3deaf8a4"
    ),
    "experiment=digits optimizer=momentum schedule.milestones=[30,45]": (
        "1e1a8bd0ba035e6a38f8b8c9787040e58508098545db3ea70f435ef19dd397f1"
    ),
}
F1 = "experiment=f1_mnist batch=large method=smoothout"


def job(overrides: str) -> Job:
    return Job(build_experiment(compose_config(CONFIGS, "train", overrides.split())))


@pytest.mark.parametrize("overrides", GOLDEN)
def test_the_digest_of_a_published_experiment_is_the_pinned_one(overrides: str) -> None:
    assert job(overrides).digest == GOLDEN[overrides]


def test_a_records_name_is_readable_and_ends_in_eight_digits_of_its_digest() -> None:
    assert job(F1).name == "f1-mnist-b6000-smoothout0.0375-e200-s0-f7cd51b3"
    assert job("experiment=digits").name == "small_mlp-digits-b32-baseline-e60-s0-734516ff"


def test_a_setting_that_is_given_its_default_leaves_the_digest_alone() -> None:
    defaults = (
        "method.a=0.0375 method.distribution=uniform method.denoise=true method.copies=0"
        " batch.ghost=null precision=float32 seed=0 model.width=512 data.train_examples=null optimizer.weight_decay=0"
    )
    assert job(f"{F1} {defaults}").digest == GOLDEN[F1]


def test_without_strength_no_other_setting_of_the_noise_matters() -> None:
    noise = (
        "method.a=0 method.distribution=gaussian method.scaling=weight method.batchnorm=true"
        " method.denoise=false method.noise_per=batch method.strength_schedule=anneal"
    )
    baseline = "experiment=f1_mnist batch=large"
    assert job(f"{baseline} {noise}").digest == GOLDEN[baseline]
    assert job(f"{baseline} method=adasmoothout method.a=0").digest == GOLDEN[baseline]


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


def test_the_weights_that_are_kept_on_the_way_do_not_matter() -> None:
    assert job(f"{F1} schedule.keep_epochs=[1,20,100]").digest == GOLDEN[F1]


def test_a_ghost_batch_of_the_whole_batch_and_drops_after_the_end_do_not_matter() -> None:
    assert job(f"{F1} batch.ghost=6000 schedule.milestones=[200] schedule.gamma=0.5").digest == GOLDEN[F1]


def test_a_ghost_batch_that_is_the_only_one_counts_where_the_learning_rate_refers_to_it() -> None:
    run = "experiment=resnet44_cifar10 batch=ghost batch.size=190 batch.ghost"
    rates = {1.378: "100", 1.218: "128", 1.125: "150", 1.0: "190"}
    for scale, ghost in rates.items():
        setup = build_experiment(compose_config(CONFIGS, "train", f"{run}={ghost}".split()))
        assert setup.schedule.lr_scale(setup.batch) == pytest.approx(scale, abs=1e-3)
    assert len({job(f"{run}={ghost}").digest for ghost in rates.values()}) == 4
    assert job(f"{run}=100").digest == job(f"{run}=null schedule.base_batch_size=100").digest
    assert job(f"{run}=190").digest == job(f"{run}=null").digest
    assert len({job(f"{run}={ghost} schedule.lr_scaling=none").digest for ghost in rates.values()}) == 1


@pytest.mark.parametrize(
    "override",
    [
        "seed=2",
        "precision=bfloat16",
        "batchnorm_init=one",
        "model.width=511",
        "data.std=[0.4]",
        "data.test_examples=9999",
        "optimizer.lr=0.002",
        "optimizer.clip_norm=null",
        "optimizer.reset_every_epoch=false",
        "schedule.epochs=199",
        "schedule.milestones=[100]",
        "batch.ghost=128",
        "method.a=0.0376",
        "method.distribution=gaussian",
        "method.strength_schedule=anneal",
    ],
)
def test_a_setting_that_changes_the_outcome_changes_the_digest(override: str) -> None:
    assert job(f"{F1} {override}").digest != GOLDEN[F1]


ANALYSES = {  # of F1 at 256; an interpolation goes from there to F1 at 6000
    "converged-train-7f33e77f": Sharpness(),
    "keskar-train-2d5bd110": Sharpness(convention=Convention.keskar),
    "released-test-32f5907b": Sharpness(convention=Convention.released),
    "uniform-9b9eabe6": NoiseCurve(),
    "to-f1-mnist-b6000-baseline-e200-s0-e14eaac0": Interpolation(),
    "to-f1-mnist-b6000-baseline-e200-s0-recomputed-e84bb564": Interpolation(running_stats=RunningStats.recomputed),
    "to-f1-mnist-b6000-baseline-e200-s0-curvilinear-6ff629e9": Interpolation(path=InterpolationPath.curvilinear),
    "5-directions-d6b1f6ce": Landscape(),
    "train-3812dc73": Plane(),
    "train-3a7bde4b": Hessian(),
    "train-recomputed-6cb87c27": Hessian(checkpoint="last", running_stats="recomputed", eigenvalues=1),
    "linf-train-a6d61bd9": AdaptiveSharpnessJob(),
    "c412cc98": SearchComparison(),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_the_name_of_an_analysis_record_is_the_pinned_one(name: str) -> None:
    runs = [job(f"experiment=f1_mnist batch={batch}") for batch in ("small", "large")]
    analysis = ANALYSES[name]
    assert Job(analysis, tuple(runs[: analysis.runs])).name == f"f1-mnist-b256-baseline-e200-s0-{name}"


@pytest.mark.parametrize(
    ("analysis", "name"),
    [
        (Sharpness(), "76325a1d"),
        (Sharpness(convention=Convention.keskar), "7b791101"),
        (Sharpness(convention=Convention.released), "ad938824"),
        (AdaptiveSharpnessJob(), "1639221d"),
        (SearchComparison(), "094eead7"),
    ],
)
def test_the_names_of_earlier_records_that_still_count_are_the_pinned_ones(analysis: Any, name: str) -> None:
    _newest, earlier = Job(analysis, (job("experiment=f1_mnist batch=small"),)).valid_digests
    assert earlier.startswith(name)


def test_a_record_of_earlier_numerics_that_still_counts_is_found_until_there_is_a_newer_one(tmp_path: Path) -> None:
    runtime: Any = SimpleNamespace(records=RecordStore(tmp_path))
    analysis = Job(Hessian(), (job("experiment=f1_mnist batch=small"),))
    assert find_record(analysis, runtime) is None
    newest, earlier = analysis.valid_digests
    assert (newest, earlier[:8]) == (analysis.digest, "aec20659")
    settings = canonical_settings(analysis.settings)
    for numerics, digest in ((1, earlier), (2, newest)):
        identity = analysis.identity | {"numerics": numerics}
        runtime.records.write(Record("hessian", f"x-{digest[:8]}", digest, identity, settings, {}, [], {}, {}))
        found = find_record(analysis, runtime)
        assert found is not None
        assert found.digest == digest
