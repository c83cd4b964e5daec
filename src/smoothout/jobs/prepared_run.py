"""Prepare a training job: load its data and checkpoint, and check that it can run, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from smoothout.analysis.jobs.base import BoxJob
from smoothout.analysis.options import WhichWeights
from smoothout.common.errors import CheckpointError, ConfigError, DataError, config_errors
from smoothout.common.rng import derive_seed, make_generator
from smoothout.config.experiment import Experiment
from smoothout.data.split import Split
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import checkpoint_path
from smoothout.jobs.runtime import Runtime
from smoothout.nn.batchnorm import init_uniform_
from smoothout.nn.options import BatchNormInit, Precision
from smoothout.nn.parameters import BATCHNORM
from smoothout.results.records import Record
from smoothout.training import checkpoint
from smoothout.training.checkpoint import StateDict, TrainingState

FileVersion = tuple[int, int, int]  # inode, time of the last change, size


@dataclass(frozen=True)
class PreparedRun:
    """A checked training that can run; `prepare_run` creates it once."""

    job: Job
    runtime: Runtime
    train_split: Split  # on the device, in the memory format of the weights
    test_split: Split
    data_sha256: str
    outline: nn.Module  # the network on the meta device: shapes without memory
    checkpoint_path: Path  # whether the file exists or not
    state: TrainingState | None  # the checkpoint's content; a resumed training modifies it
    version: FileVersion | None  # version of the checkpoint file when it was read
    source: PreparedRun | None  # the training that provides the initial weights

    @property
    def experiment(self) -> Experiment:
        """The training's settings."""
        settings: Experiment = self.job.settings
        return settings

    @property
    def is_done(self) -> bool:
        """Whether the checkpoint is from the end of the training."""
        return is_done(self.state, self.experiment)

    def refreshed(self) -> PreparedRun:
        """The same run with the current checkpoint; the file is read again only if it has changed."""
        if _version(self.checkpoint_path) == self.version:
            return self
        state, version = load_state(self.job, self.checkpoint_path, self.outline, self.runtime)
        return replace(self, state=state, version=version)


def prepare_run(job: Job, runtime: Runtime, outline: nn.Module | None = None) -> PreparedRun:
    """Load the data and checkpoint of a training, and check that it can run.

    ``outline`` is the network's, if known. Raises ConfigError, DataError or CheckpointError.
    """
    experiment: Experiment = job.settings
    outline = outline or model_outline(experiment)
    train_split, test_split, data_sha256 = load_splits(experiment, runtime)
    _check_batch(experiment, len(train_split), outline)
    with config_errors("init_from.run: ", of=ConfigError):
        source = prepare_run(Job(experiment.source), runtime) if experiment.source else None
    if source and _shapes(source.outline.state_dict()) != _shapes(outline.state_dict()):
        raise ConfigError("init_from.run: the run's network must have the same architecture as this training's")
    same_data = source is not None and source.experiment.data.name == experiment.data.name
    if source and same_data and experiment.data.validation_size not in (None, source.experiment.data.validation_size):
        held_out = f"data.validation_size={experiment.data.validation_size}"
        raise ConfigError(f"init_from.run: must have {held_out} too, or it would be trained on images held out here")
    path = checkpoint_path(job, runtime)
    state, version = load_state(job, path, outline, runtime)
    run = PreparedRun(job, runtime, train_split, test_split, data_sha256, outline, path, state, version, source)
    if not run.is_done:
        _check_updates(experiment, runtime)
    return run


def _check_updates(experiment: Experiment, runtime: Runtime) -> None:
    """Raise ConfigError unless updates can run on the device, with the engine and the processes."""
    with config_errors("engine."):
        capturable = capturable_by_settings(experiment, runtime)
        runtime.engine.resolved(runtime.device, experiment.precision, capturable=capturable)
    if experiment.precision is Precision.tf32 and runtime.device.type != "cuda":
        raise ConfigError(f"precision: tf32 needs a CUDA device, not {runtime.device.type}; must be float32")
    ghosts, processes = experiment.batch.ghosts_per_update, runtime.ranks.size
    if ghosts < processes:
        raise ConfigError(
            f"batch.ghost: {ghosts} ghost batch(es) per update cannot be split over {processes} processes;"
            " use a smaller batch.ghost, a larger batch.multiplier, or fewer processes"
        )


def _check_batch(experiment: Experiment, examples: int, outline: nn.Module) -> None:
    """Raise ConfigError unless the data fill a batch, and every ghost batch is large enough for BatchNorm."""
    with config_errors("batch."):
        experiment.batch.check_fits(examples)
    has_batchnorm = any(isinstance(module, BATCHNORM) for module in outline.modules())
    if has_batchnorm and experiment.batch.smallest_ghost(examples) == 1:
        key, what = ("ghost", "a ghost batch") if experiment.batch.ghost else ("size", "the last batch")
        raise ConfigError(f"batch.{key}: {what} has 1 example, and BatchNorm needs 2; take another {key}")


def capturable_by_settings(experiment: Experiment, runtime: Runtime) -> bool:
    """Whether the settings allow updates to be captured as CUDA graphs; the trainer checks the rest."""
    method, optimizer, data = experiment.method, experiment.optimizer, experiment.data
    return method.capturable and optimizer.capturable and data.resident and runtime.ranks.size == 1


def check_analysis(job: Job, outlines: Sequence[nn.Module]) -> None:
    """Raise ConfigError if the networks of the runs, ``outlines``, do not allow the analysis."""
    if job.dependencies and len(job.dependencies) != job.settings.runs:
        raise ConfigError(f"analysis: {job.kind} takes {job.settings.runs} run(s), not {len(job.dependencies)}")
    if len({run.digest for run in job.dependencies}) < len(job.dependencies):
        raise ConfigError(
            "second_run: both runs are identical; give overrides for the second, such as second_run=['seed=1']"
        )
    if job.settings.takes_unseen_test and job.training_job.settings.data.validation_size is None:
        raise ConfigError(f"data.validation_size: must be set for {job.kind}: else the test split is not unseen")
    first, *others = (_shapes(outline.state_dict()) for outline in outlines)
    if any(other != first for other in others):
        raise ConfigError("second_run: both runs must have networks of the same architecture")
    if isinstance(job.settings, BoxJob) and (subspace := job.settings.subspace) is not None:
        weights = sum(parameter.numel() for parameter in outlines[0].parameters())
        if subspace > weights:
            raise ConfigError(f"analysis.subspace: {subspace} is more than the {weights} weights of the network")


# Networks


def model_outline(experiment: Experiment) -> nn.Module:
    """The network on the meta device, which takes no memory. Raises ConfigError."""
    build = partial(experiment.model.build, experiment.data.shape, experiment.data.classes)
    with config_errors():
        try:
            with torch.device("meta"):
                model: nn.Module = build()
        except (NotImplementedError, RuntimeError):  # it needs values, which meta tensors do not have
            with torch.random.fork_rng(devices=[]):
                model = build().to("meta")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ConfigError("model: has lazy modules, whose sizes are unknown before a pass; must name all sizes")
    _check_output(model.eval(), experiment)
    return model


def _check_output(outline: nn.Module, experiment: Experiment) -> None:
    """Raise ConfigError unless a network on the meta device gives a logit per class.

    A pass that fails is no error: some operations need values. One that is wrong fails again, in the training.
    """
    images = torch.empty((2, *experiment.data.shape), device="meta")
    try:
        with torch.no_grad():
            output = outline(images)
    except Exception:
        return
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (expected := (len(images), experiment.data.classes)):
        raise ConfigError(
            f"model: {experiment.model.name} returns {found} for {len(images)} images; must be logits of shape"
            f" (images, classes) = {expected}"
        )


def init_model(experiment: Experiment, runtime: Runtime) -> nn.Module:
    """The network with random weights, on the device: the same for the same seed, whatever the method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(experiment.seed, "start"))
        model: nn.Module = experiment.model.build(experiment.data.shape, experiment.data.classes)
    if experiment.batchnorm_init is BatchNormInit.uniform and not experiment.model.initializes_batchnorm:
        init_uniform_(model, make_generator(experiment.seed, "batchnorm"))
    memory_format = runtime.engine.resolve_memory_format(runtime.device, experiment.precision)
    return memory_format.applied_to(model.to(runtime.device))


def network_of(experiment: Experiment, runtime: Runtime, state: TrainingState, which: str) -> nn.Module:
    """The network with the ``best`` or ``last`` weights of ``state``, in evaluation mode."""
    model = init_model(experiment, runtime)
    model.load_state_dict(state.model if which == "last" else state.best)
    return model.eval()


def _shapes(weights: StateDict) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


# Checkpoints


def load_state(
    job: Job, path: Path, outline: nn.Module, runtime: Runtime
) -> tuple[TrainingState | None, FileVersion | None]:
    """The content and version of the checkpoint at ``path``, (None, None) without a file. Raises CheckpointError."""
    version = _version(path)
    if version is None:
        return None, None
    state = checkpoint.load(path, job.digest, runtime.device)
    if _shapes(state.model) != _shapes(outline.state_dict()):
        raise CheckpointError(f"checkpoint: {path} holds the weights of another network; delete it to train again")
    return state, version


def is_done(state: TrainingState | None, experiment: Experiment) -> bool:
    """Whether ``state`` is the end of the training: after its last epoch, or diverged."""
    return state is not None and (state.epoch == experiment.schedule.epochs or state.diverged)


def has_weights(
    state: TrainingState | None, which: WhichWeights, experiment: Experiment, record: Record | None
) -> TypeGuard[TrainingState]:
    """Whether ``state`` holds the ``which`` weights of a training.

    Before the end of training, it may hold the best weights: they must have the digest in the training's ``record``.
    """
    if state is None or is_done(state, experiment):
        return state is not None
    if which is not WhichWeights.best or record is None or state.epoch <= record.outcome["best"]["epoch"]:
        return False
    return weights_digest(state.best) == str(record.outcome["weights"]["best"])


def weights_digest(weights: StateDict) -> str:
    """SHA-256 over the tensors of a state dict."""
    digest = hashlib.sha256()
    for tensor in weights.values():
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()


def _version(path: Path) -> FileVersion | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


# Data


def load_splits(experiment: Experiment, runtime: Runtime) -> tuple[Split, Split, str]:
    """The training split, the test split, and the fingerprint of the data set. Raises DataError."""
    folder = Path(runtime.folders.data)
    train_split, test_split, data_sha256 = _load(experiment.data, folder, runtime.device, runtime.download)
    memory_format = runtime.engine.resolve_memory_format(runtime.device, experiment.precision).memory_format
    return train_split.to_memory_format(memory_format), test_split.to_memory_format(memory_format), data_sha256


@lru_cache(maxsize=2)
def _load(data: Any, folder: Path, device: torch.device, download: bool) -> tuple[Split, Split, str]:
    """The data set on the device, cached for a table's trainings and for those that take turns."""
    loaded: tuple[Split, Split, str] = data.load(folder, device, download)
    for name, split in (("training", loaded[0]), ("test", loaded[1])):
        if data.resident:
            _check_examples(f"data: {data.name}, {name} split", split, data)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # trainings on other streams use the copy made on this one
    return loaded


def _check_examples(what: str, split: Split, data: Any) -> None:
    """Raise DataError unless the examples of a ``split`` on the device match the settings ``data``."""
    labels, shape = split.labels, tuple(split.images.shape[1:])
    if shape != tuple(data.shape):
        raise DataError(
            f"{what}: images have shape {shape} (channels, height, width), and its settings say {data.shape}"
        )
    if len(split.images) != len(labels) or labels.dtype != torch.int64:
        raise DataError(f"{what}: needs one int64 label per image, not {len(labels)} of {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < data.classes:
        raise DataError(f"{what}: labels must be 0 to {data.classes - 1}, not {labels.min()} to {labels.max()}")
