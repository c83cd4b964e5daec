"""Trainings that begin with the weights of others."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import same_bits
from helpers.small_arrays import images
from helpers.tiny_jobs import DIGITS, UPDATES, checkpoint_of, tiny, trained, workplace
from torch.nn.utils import parameters_to_vector

from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.options import WhichWeights
from smoothout.common.errors import ConfigError
from smoothout.config.experiment import InitFrom
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.prepared_run import prepare_run
from smoothout.jobs.runner import get_or_run, load_network, run_jobs
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.training_job import train_locked
from smoothout.models.mlp import MLP
from smoothout.nn.options import BatchNormInit
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

SOURCE = tiny(schedule=Schedule(3, (2,), 100.0))  # its last epoch, with a learning rate of 1, is not its best
BATCH = Batch(500)  # 3 updates per epoch


def warm(source: Job = SOURCE, which: WhichWeights = WhichWeights.last, **changes: Any) -> Job:
    return tiny(**{"batch": BATCH, "init_from": InitFrom(source.settings, which), **changes})


@pytest.mark.parametrize("which", WhichWeights)
def test_it_is_the_training_of_a_network_with_these_weights(which: WhichWeights, runtime: Runtime) -> None:
    source = trained(SOURCE, runtime)
    assert source.best_epoch < 2
    weights = source.best if which is WhichWeights.best else source.model
    model = MLP(16, 2, "tiny").build(DIGITS.shape, DIGITS.classes)
    model.load_state_dict(weights)
    splits = DIGITS.load(Path(runtime.folders.data), torch.device("cpu"))[:2]
    settings: dict[str, Any] = {"optimizer": Adam(lr=0.01), "schedule": Schedule(2), "batch": BATCH}
    wanted = Trainer(model, *splits, method=NoiseConfig(), seed=0, **settings).run()
    found = trained(warm(which=which), runtime)
    assert same_bits(found.model, wanted.model)
    assert found.curves["test_loss"] == wanted.curves["test_loss"]


def test_its_record_names_where_it_began_and_how_far_it_went(runtime: Runtime) -> None:
    record, source = get_or_run(warm(), runtime), get_or_run(SOURCE, runtime)
    assert record.inputs == [source.name]
    assert record.identity["inputs"] == [SOURCE.digest]
    assert record.labels["init_from"] == SOURCE.settings.slug()
    assert record.labels["init_epochs"] == 3
    assert record.name.startswith("tiny-digits-b500-baseline-e2-s0-from-b128-baseline-e3-")
    ends = {job: load_network(job, "last", runtime) for job in (SOURCE, warm())}
    start, end = (parameters_to_vector(ends[job].parameters()).detach().double() for job in (SOURCE, warm()))
    assert record.outcome["last"]["distance"] == pytest.approx(float((end - start).norm()), rel=1e-9)
    assert source.outcome["best"]["distance"] < source.outcome["last"]["distance"]


def test_the_weights_that_it_begins_with_are_part_of_its_identity() -> None:
    runs = [
        tiny(batch=BATCH),
        warm(),
        warm(which=WhichWeights.best),
        warm(tiny(schedule=Schedule(2))),
        warm(tiny(schedule=Schedule(3), method=NoiseConfig(0.1))),
        warm(warm()),
    ]
    assert len({job.digest for job in runs}) == len(runs)
    kept = tiny(schedule=replace(SOURCE.settings.schedule, keep_epochs=(1,)))
    assert warm(kept).digest == warm().digest == warm(batchnorm_init=BatchNormInit.uniform).digest


def test_what_it_begins_from_is_trained_first_and_once(runtime: Runtime, updates: list[Job]) -> None:
    chain = warm(warm())
    analysis = Job(NoiseCurve(strengths=(0.0, 0.1), draws=1, examples=50), (chain,))
    order = with_dependencies([analysis, chain, warm()])
    assert [job.digest for job in order] == [job.digest for job in (SOURCE, warm(), chain, analysis)]
    get_or_run(analysis, runtime)
    assert [job.digest for job in updates] == (
        [SOURCE.digest] * 3 * UPDATES + [warm().digest] * 2 * 3 + [chain.digest] * 2 * 3
    )
    assert all(not isinstance(outcome, Exception) for _, outcome in run_jobs(order, runtime))
    assert len(updates) == 3 * UPDATES + 12


def test_jobs_that_take_turns_wait_for_what_they_begin_from(runtime: Runtime) -> None:
    jobs = [warm(), tiny(), warm(which=WhichWeights.best), SOURCE]
    outcomes = dict(run_jobs(jobs, runtime.limited_to(4)))
    assert {job.digest for job in outcomes} == {job.digest for job in jobs}
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]


def test_an_interrupted_one_resumes_to_the_same_bits(runtime: Runtime, tmp_path: Path) -> None:
    wanted = trained(warm(), workplace(tmp_path / "other"))
    steps = train_locked(prepare_run(warm(), replace(runtime, checkpoint_seconds=0.0)))
    assert len(list(islice(steps, 3 * UPDATES + 4))) == 3 * UPDATES + 4
    steps.close()
    job = warm()
    assert checkpoint.load(checkpoint_of(job, runtime), job.digest).epoch == 1
    assert same_bits(trained(job, runtime).model, wanted.model)


def test_a_network_of_another_architecture_is_refused(runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"^init_from.run: the run's network must have the same architecture"):
        get_or_run(warm(tiny(model=MLP(8, 2, "smaller"))), runtime)
    assert not Path(runtime.folders.checkpoints).exists()


def test_another_seed_is_that_of_the_run_too_unless_it_had_its_own() -> None:
    shared = warm().settings.with_seed(5)
    assert (shared.seed, shared.source.seed) == (5, 5)
    own = warm(tiny(seed=3)).settings.with_seed(5)
    assert (own.seed, own.source.seed) == (5, 3)


def test_weights_that_saw_the_held_out_images_are_refused() -> None:
    holding_out = replace(DIGITS, validation_size=300)
    with pytest.raises(ConfigError, match=r"^init_from.run: must have data.validation_size=300 too"):
        prepare_run(warm(data=holding_out), workplace(Path("unused")))


def test_a_run_on_another_data_set_may_have_seen_all_of_its_images(runtime: Runtime) -> None:
    """The held-out images are not among them."""
    Path(runtime.folders.data).mkdir()
    for name in ("mnist", "fashion_mnist"):
        pixels = {f"x_{split}": np.zeros((count, 28, 28), np.uint8) for split, count in (("train", 12), ("test", 5))}
        labels = {f"y_{split}": np.arange(count) % 10 for split, count in (("train", 12), ("test", 5))}
        np.savez(Path(runtime.folders.data) / f"{name}.npz", **pixels, **labels)
    source = tiny(data=images("mnist"), batch=Batch(4))
    prepared = prepare_run(warm(source, data=images("fashion_mnist", validation_size=6), batch=Batch(3)), runtime)
    assert (len(prepared.train_split), len(prepared.source.train_split)) == (6, 12)
