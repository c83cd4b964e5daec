"""Jobs: a training can be stopped anywhere and ends with the same bits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.tiny_jobs import UPDATES, checkpoint_of, record_of, tiny, trained, workplace
from torch import Tensor, nn

from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.common import interrupts
from smoothout.common.environment import environment
from smoothout.common.errors import CheckpointError
from smoothout.jobs import lookup, training_job
from smoothout.jobs import runtime as runtime_module
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import BatchNormInit, NoiseDistribution, NoiseScaling
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.smoothout import NoiseConfig, StrengthSchedule
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule


def test_weights_that_are_missing_are_made_again_the_same(
    runtime: Runtime, trainings: list[TrainingState | None]
) -> None:
    job = tiny(method=NoiseConfig(a=0.05))
    get_or_run(job, runtime)
    first = checkpoint.load(checkpoint_of(job, runtime), job.digest)
    checkpoint_of(job, runtime).unlink()
    again = trained(job, runtime)
    assert len(trainings) == 2
    assert same_bits(again.model, first.model)
    assert same_bits(again.best, first.best)
    assert checkpoint_of(job, runtime).exists()


@pytest.mark.parametrize(("change", "words"), [(1e-9, "agrees with the record"), (0.05, "other weights")])
def test_an_analysis_of_weights_that_were_trained_again_says_whether_they_agree_with_the_record(
    runtime: Runtime, change: float, words: str
) -> None:
    run = tiny()
    job = Job(NoiseCurve(strengths=(0.0, 0.1), draws=1, examples=50), (run,))
    curve = get_or_run(job, runtime)
    assert curve.outcome["weights"] == [get_or_run(run, runtime).outcome["weights"]["best"]]
    assert "retrained" not in curve.outcome
    assert lookup.describe_retrained([run, job], runtime) == []

    # Weights of the same training that were rounded otherwise, or that another rounding led elsewhere.
    path = checkpoint_of(run, runtime)
    snapshot = checkpoint.load(path, run.digest)
    first = next(iter(snapshot.best.values()))
    first.view(-1)[0].add_(1e-6) if change < 1e-6 else first.mul_(1 + change)
    checkpoint.save(path, snapshot, run.digest)
    assert lookup.describe_retrained([run, job], runtime) == []
    (Path(runtime.folders.results) / job.kind / f"{job.name}.json").unlink()
    [numbers] = get_or_run(job, runtime).outcome["retrained"]
    recorded = get_or_run(run, runtime).outcome["best"]
    assert (abs(numbers["test_loss"] / recorded["test_loss"] - 1) < 1e-4) is (words == "agrees with the record")
    assert lookup.describe_retrained([run, job], runtime) == [f"trained again, {words}: {run.name}"]


def test_an_analysis_of_a_network_whose_code_was_changed_is_refused(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    get_or_run(run, runtime)
    job = Job(NoiseCurve(strengths=(0.0, 0.1), draws=1, examples=50), (run,))
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: 0 * x)  # accuracy of a guess, on any processor
    with pytest.raises(CheckpointError, match=r"^model: tiny-.*: the same weights had a test accuracy of .* the code"):
        get_or_run(job, runtime)
    assert runtime.records.get(job.kind, job.digest) is None
    monkeypatch.undo()
    get_or_run(job, runtime)


def test_finished_weights_are_read_and_not_trained_again(
    runtime: Runtime, trainings: list[TrainingState | None]
) -> None:
    job = tiny()
    get_or_run(job, runtime)
    record_of(job, runtime).unlink()
    get_or_run(job, runtime)
    assert len(trainings) == 1
    assert checkpoint.load(checkpoint_of(job, runtime), job.digest).optimizer == {}


def _stopping_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the work to stop after this many updates."""
    made = itertools.count(1)
    monkeypatch.setattr(interrupts, "pending_signal", lambda: 15 * (next(made) >= updates))

    def stop() -> None:
        raise interrupts.Interrupted(15)

    monkeypatch.setattr(interrupts, "raise_if_interrupted", stop)


RUNS = {
    "adam": {"method": NoiseConfig(a=0.05)},
    "a new adam every epoch": {
        "optimizer": Adam(lr=0.01, clip_norm=0.5, weight_decay=1e-3, reset_every_epoch=True),
        "method": NoiseConfig(a=0.1, scaling=NoiseScaling.filter, strength_schedule=StrengthSchedule.tanh_falling),
        "batch": Batch(128, ghost=32),
    },
    "momentum with a drop": {
        "optimizer": SGD(lr=0.1, weight_decay=1e-4),
        "schedule": Schedule(2, milestones=(1,)),
        "method": NoiseConfig(a=0.05, distribution=NoiseDistribution.gaussian, denoise=False),
    },
    "copies": {"method": NoiseConfig(a=0.05, copies=2)},
}


@pytest.mark.parametrize(("name", "updates"), list(zip(RUNS, [1, UPDATES, UPDATES + 5, 2 * UPDATES], strict=True)))
def test_a_run_that_is_stopped_after_any_update_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[TrainingState | None], name: str, updates: int
) -> None:
    job = tiny(**RUNS[name])
    expected = get_or_run(job, workplace(tmp_path / "unbroken"))
    trainings.clear()
    runtime = workplace(tmp_path / "stopped", checkpoint_seconds=-1.0)
    with monkeypatch.context() as patch:
        _stopping_after(updates, patch)
        with pytest.raises(interrupts.Interrupted):
            get_or_run(job, runtime)
    assert not record_of(job, runtime).exists()
    left = checkpoint.load(checkpoint_of(job, runtime), job.digest)
    assert left.epoch * UPDATES + left.step == updates
    record = get_or_run(job, runtime)
    assert len(trainings) == 2
    assert trainings[1] is not None
    assert record.outcome["weights"] == expected.outcome["weights"]
    for curve in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert record.outcome["curves"][curve] == expected.outcome["curves"][curve]
    assert record.outcome["best"] == expected.outcome["best"]
    assert record.outcome["last"] == expected.outcome["last"]


def test_a_run_that_continues_elsewhere_says_so(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny()
    with monkeypatch.context() as patch:
        _stopping_after(3, patch)
        with pytest.raises(interrupts.Interrupted):
            get_or_run(job, runtime)
    machine = environment(runtime.device)
    monkeypatch.setattr(runtime_module, "environment", lambda device: {**machine, "threads": 64})
    assert [machine["threads"] for machine in get_or_run(job, runtime).outcome["machines"]] == [machine["threads"], 64]


def _start_weights(job: Job, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights that the training of ``job`` is started with."""
    found: dict[str, Tensor] = {}

    def look(model: nn.Module, *_: Any, **__: Any) -> None:
        found.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        raise interrupts.Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "Trainer", look)
        with pytest.raises(interrupts.Interrupted):
            get_or_run(job, runtime)
    return found


def test_the_same_seed_gives_all_methods_the_same_start(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**changes: Any) -> dict[str, Tensor]:
        torch.rand(3)  # what was drawn before does not matter
        return _start_weights(tiny(batchnorm_init=BatchNormInit.uniform, **changes), runtime, monkeypatch)

    baseline = start()
    assert same_bits(start(method=NoiseConfig(a=0.05)), baseline)
    assert same_bits(start(method=NoiseConfig(a=0.1, scaling=NoiseScaling.filter)), baseline)
    assert same_bits(start(batch=Batch(700), optimizer=SGD(lr=0.1)), baseline)
    other = start(seed=1)
    assert not any(torch.equal(other[name], baseline[name]) for name in baseline if baseline[name].ndim == 2)


def test_batchnorm_starts_at_one_or_uniformly_as_asked(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _start_weights(tiny(), runtime, monkeypatch)
    uniform = _start_weights(tiny(batchnorm_init=BatchNormInit.uniform), runtime, monkeypatch)
    differ = {name for name in one if not torch.equal(one[name], uniform[name])}
    assert differ == {"2.weight", "5.weight"}  # the BatchNorm layers of the two hidden layers
    for name in differ:
        assert torch.equal(one[name], torch.ones(16))
        assert 0 <= uniform[name].min() < uniform[name].max() < 1


def test_training_leaves_the_global_generator_alone(runtime: Runtime) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    get_or_run(tiny(method=NoiseConfig(a=0.05)), runtime)
    assert torch.equal(torch.rand(4), expected)
