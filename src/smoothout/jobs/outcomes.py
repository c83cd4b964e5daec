"""What a job's record says: the outcome of a training, and of an analysis of trained networks."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothout.common import pass_cache, progress
from smoothout.common.environment import peak_memory
from smoothout.common.errors import CheckpointError, ConfigError, DataError
from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.locks import acquire, weights_lock
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.training_job import init_model, load_splits, train_job
from smoothout.nn.curvature import thin_epochs
from smoothout.nn.evaluation import eval_batch_size, evaluate
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context
from smoothout.results.digest import canonical_json
from smoothout.results.records import Record, find_non_json_type
from smoothout.training.checkpoint import StateDict
from smoothout.training.noise_strength import relative_noise_strength

SAME_ACCURACY = 0.02  # a share; where sums are rounded otherwise, the same weights may do a little better or worse


def pass_cache_path(job: Job, runtime: Runtime) -> Path:
    """The folder of what an analysis has found so far."""
    return Path(runtime.folders.checkpoints) / f"{job.name}.passes"


def measurement_outcome(job: Job, runtime: Runtime) -> dict[str, Any]:
    """What the job measures of the machine."""
    try:
        outcome: dict[str, Any] = job.settings.measure(runtime.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return outcome


def shared_labels(labels: list[dict[str, Any]]) -> dict[str, Any]:
    """The labels that are the same in all of ``labels``."""
    first, *others = labels
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def analysis_outcome(job: Job, runs: list[Record], runtime: Runtime) -> Generator[bool, None, dict[str, Any]]:
    """Run an analysis on the weights of its input ``runs``, in float32; on other data than theirs it is refused."""
    train_split, test_split, fingerprint = load_splits(job.dependencies[0].settings, runtime)
    for run in runs:
        if run.outcome["data_sha256"] != fingerprint:
            data = f"data: {run.labels['data']} in {runtime.folders.data} is not what {run.name} was trained on"
            raise DataError(f"{data}; put that back, or train it anew with other folders.results and checkpoints")
    models, digests = [], []
    for one in job.dependencies:
        model, accuracy = yield from trained_network(one, job.settings.checkpoint, runtime)
        _check_code(model, one.settings, accuracy, runtime)
        digests.append(_digest(model.state_dict()))
        models.append(model)
    total = job.settings.ticks(len(train_split), len(test_split))
    circumstances = canonical_json([digests, fingerprint, runtime.environment()])
    exactly = precision_context(
        Precision.float32, runtime.device
    )  # torch's own default lets CUDA's convolutions use TF32
    with (
        progress.Bar(job.name, total) as bar,
        pass_cache.open_pass_cache(pass_cache_path(job, runtime), circumstances),
        exactly,
    ):
        outcome: dict[str, Any] = job.settings.run(models, train_split, test_split, bar.tick)
    for key, value in outcome.items():
        if wrong := find_non_json_type(value):
            raise TypeError(f"{job.kind}: run() returned a {wrong} under {key!r}; a record holds numbers and lists")
    return {**outcome, "weights": digests}


def _check_code(model: nn.Module, setup: Experiment, accuracy: float, runtime: Runtime) -> None:
    """Raise CheckpointError where the network is another function now: its code was changed since it was trained."""
    _, test_split, _ = load_splits(setup, runtime)
    with precision_context(setup.precision, runtime.device):
        now = evaluate(model, test_split.batches(eval_batch_size(runtime.device))).accuracy
    if abs(now - accuracy) > SAME_ACCURACY:
        raise CheckpointError(
            f"model: {setup.slug()}: the same weights had a test accuracy of {accuracy:.2%} and now have {now:.2%}: was"
            " the code changed since? Give what is new another name or setting, or delete the old record and checkpoint"
        )


def trained_network(job: Job, which: str, runtime: Runtime) -> Generator[bool, None, tuple[nn.Module, float]]:
    """The run's network with its best or last weights, in evaluation mode, and the test accuracy that they had.

    Without a checkpoint it is trained first.
    """
    with (yield from acquire(weights_lock(job, runtime))):
        snapshot = yield from train_job(job, runtime)
    model = init_model(job.settings, runtime)
    model.load_state_dict(snapshot.model if which == "last" else snapshot.best)
    return model.eval(), snapshot.curves["test_accuracy"][-1 if which == "last" else snapshot.best_epoch]


def training_outcome(job: Job, runtime: Runtime) -> Generator[bool, None, dict[str, Any]]:
    """Train, and measure the best and the last weights on both splits without noise."""
    setup: Experiment = job.settings
    train_split, test_split, fingerprint = load_splits(setup, runtime)
    with (yield from acquire(weights_lock(job, runtime))):
        snapshot = yield from train_job(job, runtime)
    model = init_model(setup, runtime)
    measured = {}
    for which, weights, epoch in (
        ("best", snapshot.best, snapshot.best_epoch),
        ("last", snapshot.model, snapshot.epoch - 1),
    ):
        model.load_state_dict(weights)
        with precision_context(setup.precision, runtime.device):
            clean = {
                name: evaluate(model, split.batches(eval_batch_size(runtime.device)))
                for name, split in (("train", train_split), ("test", test_split))
            }
        numbers = {f"{name}_{what}": getattr(m, what) for name, m in clean.items() for what in ("loss", "accuracy")}
        measured[which] = {"epoch": epoch, **numbers}
    return {
        **measured,
        "diverged": snapshot.diverged,
        "train_seconds": sum(snapshot.curves["seconds"]),
        "peak_memory": peak_memory(runtime.device)
        if runtime.concurrent_trainings == 1
        else None,  # else it is that of several
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": {"train": len(train_split), "test": len(test_split)},
        "data_sha256": fingerprint,
        "weights": {"best": _digest(snapshot.best), "last": _digest(snapshot.model)},
        "machines": snapshot.machines,
        "curves": snapshot.curves,
        "curvature": thin_epochs(snapshot.curvature),
        **_strength(setup, snapshot.epoch, len(train_split), init_model(setup, runtime), model),
    }


def _strength(setup: Experiment, epochs: int, examples: int, first: nn.Module, last: nn.Module) -> dict[str, Any]:
    """How strong the noise was beside the first weights and the last, those after ``epochs``; nothing without noise."""
    noise, updates = setup.method, setup.batch.updates_per_epoch(examples)
    if not noise.a:
        return {}
    at = {"start": (first, 0), "end": (last, epochs * updates - 1)}
    total = setup.schedule.epochs * updates
    return {
        "relative_strength": {when: relative_noise_strength(m, noise, step, total) for when, (m, step) in at.items()}
    }


def _digest(weights: StateDict) -> str:
    """SHA-256 over the tensors of a state dict."""
    found = hashlib.sha256()
    for tensor in weights.values():
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return found.hexdigest()
