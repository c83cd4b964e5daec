"""Trainings and their weights: gone on with, kept as checkpoints, and given to whoever needs them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from smoothout.common import interrupts, progress
from smoothout.common.errors import CheckpointError, ConfigError
from smoothout.common.files import ensure_writable
from smoothout.common.rng import derive_seed, make_generator
from smoothout.config.experiment import Experiment
from smoothout.data.split import Split
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.nn.batchnorm import init_uniform_
from smoothout.nn.options import BatchNormInit
from smoothout.nn.parameters import BATCHNORM
from smoothout.training import checkpoint
from smoothout.training.checkpoint import StateDict, TrainingState
from smoothout.training.cuda_graph import RecordingError
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, tune_malloc
from smoothout.training.trainer import Trainer


def validate_training(job: Job, runtime: Runtime) -> None:
    """Find what is wrong with a training's data, model, batch or checkpoint before anything is written."""
    setup: Experiment = job.settings
    train_split, _, _ = load_splits(setup, runtime)
    try:
        setup.batch.check_fits(len(train_split))
    except ValueError as error:
        raise ConfigError(f"batch.{error}") from error
    try:
        runtime.engine.resolved(runtime.device, setup.precision, recordable=_capturable(setup, runtime))
    except ValueError as error:
        raise ConfigError(f"engine.{error}") from error
    model = _outline(setup)
    normalised = any(isinstance(module, BATCHNORM) for module in model.modules())
    if normalised and setup.batch.smallest_ghost(len(train_split)) == 1:
        raise ConfigError("batch.size: the last (ghost) batch has 1 example, and BatchNorm needs 2; take another size")
    path, snapshot = load_snapshot(job, runtime)
    if snapshot is not None and _shapes(snapshot.model) != _shapes(model.state_dict()):
        raise CheckpointError(f"checkpoint: {path} holds the weights of another network; delete it to train anew")
    if setup.batch.ghosts_per_update < runtime.ranks.size and not _is_done(snapshot, setup):
        raise ConfigError(
            f"batch.ghost: an update of {setup.batch.ghosts_per_update} ghost batch(es) cannot be shared by"
            f" {runtime.ranks.size} processes; use smaller ghost batches, a larger batch.multiplier or fewer processes"
        )


def _capturable(setup: Experiment, runtime: Runtime) -> bool:
    """Whether an update can be recorded as a CUDA graph, as far as settings tell; the training knows the rest."""
    copies = bool(setup.method.a and setup.method.copies)
    return setup.optimizer.capturable and not copies and setup.data.resident and runtime.ranks.size == 1


def _is_done(snapshot: TrainingState | None, setup: Experiment) -> bool:
    """Whether the training is done."""
    return snapshot is not None and (snapshot.epoch == setup.schedule.epochs or snapshot.diverged)


def validate_analysis(job: Job) -> None:
    """Find what an analysis cannot do with the networks of its runs before these are trained."""
    if len({one.digest for one in job.dependencies}) < len(job.dependencies):
        raise ConfigError(
            "second_run: both runs are the same; give overrides for the second, such as second_run=['seed=1']"
        )
    networks = [_outline(one.settings) for one in job.dependencies]
    shapes = [_shapes(network.state_dict()) for network in networks]
    if any(other != shapes[0] for other in shapes):
        raise ConfigError("second_run: the second run's network must have the architecture of the first's")
    columns = getattr(job.settings, "subspace", None)
    for weights in (sum(parameter.numel() for parameter in network.parameters()) for network in networks):
        if columns is not None and columns > weights:
            raise ConfigError(f"analysis.subspace: {columns} is more than the {weights} weights of the network")


def _shapes(weights: StateDict) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _outline(setup: Experiment) -> nn.Module:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            model: nn.Module = setup.model.build(setup.data.shape, setup.data.classes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return model


def train_job(job: Job, runtime: Runtime) -> Generator[bool, None, TrainingState]:
    """Train ``job`` to its end, from its checkpoint or from the start; yields after every update, returns the end.

    A training that is done is only read. When it is asked to stop it leaves a checkpoint behind and raises Interrupted.
    """
    setup: Experiment = job.settings
    path, snapshot = load_snapshot(job, runtime)
    if snapshot is not None and _is_done(snapshot, setup):
        return snapshot
    train_split, _, fingerprint = load_splits(setup, runtime)
    if snapshot is not None and snapshot.data_sha256 not in (None, fingerprint):
        data = f"{setup.data.name} in {runtime.folders.data}"
        raise CheckpointError(f"checkpoint: {path} has seen other data than {data}; put that back, or delete it")
    run = _make_trainer(setup, runtime, snapshot)
    machines = snapshot.machines if snapshot else []
    updates = setup.batch.updates_per_epoch(len(train_split))
    ensure_writable(path)
    saved = time.monotonic()

    def save(now: TrainingState) -> None:
        here = runtime.environment(run.engine)  # a training may have left CUDA graphs for eager updates
        now.machines, now.data_sha256 = machines + ([] if here in machines else [here]), fingerprint
        checkpoint.save(path, now, job.digest)

    done = snapshot.epoch * updates + snapshot.step if snapshot else 0
    bar = progress.Bar(job.name, setup.schedule.epochs * updates, done)
    leading = runtime.ranks.broadcast_work(lambda: _assignment(setup, runtime, run.state()))
    with leading, bar, _tensorboard(job, runtime, snapshot.epoch if snapshot else 0) as log:
        for now in _updates(run):
            log(now)
            bar.step(_progress_note(now))
            stopping = runtime.ranks.agree_to_stop()
            if stopping or time.monotonic() - saved > runtime.checkpoint_seconds:
                save(run.state())
                saved = time.monotonic()
            if stopping:  # a signal that the other ranks do not know of yet waits until they do
                interrupts.raise_if_interrupted()
            yield True
        end = run.state()
        log(end)
    end.optimizer = {}
    save(end)
    return end


def _updates(run: Trainer) -> Iterator[TrainingState]:
    """The training, update by update. Raises SettingsError where a CUDA graph is asked for and cannot be recorded."""
    try:
        yield from run
    except RecordingError as error:
        raise ConfigError(f"engine.launch: graph: the update cannot be recorded ({error}); take auto") from error


def _make_trainer(setup: Experiment, runtime: Runtime, snapshot: TrainingState | None) -> Trainer:
    """The training, ready to be iterated over. Raises SettingsError where the place cannot do what its engine says."""
    train_split, test_split, _ = load_splits(setup, runtime)
    try:
        return Trainer(
            init_model(setup, runtime),
            train_split,
            test_split,
            optimizer=setup.optimizer,
            schedule=setup.schedule,
            batch=setup.batch,
            noise=setup.method,
            seed=setup.seed,
            precision=setup.precision,
            augmentation=setup.data.augmentation,
            engine=runtime.engine,
            resume=snapshot,
            ranks=runtime.ranks,
        )
    except ValueError as error:
        of_engine = str(error).partition(":")[0] in {field.name for field in fields(Engine)}
        raise ConfigError(f"engine.{error}" if of_engine else str(error)) from error


class TrainingAssignment(NamedTuple):
    """What the other ranks have to know to do their share of a training: ``threads`` are torch's, of each process."""

    setup: Experiment
    runtime: Runtime
    threads: int
    snapshot: TrainingState


def _assignment(setup: Experiment, runtime: Runtime, snapshot: TrainingState) -> TrainingAssignment:
    anywhere = replace(runtime, ranks=ProcessGroup(), device=torch.device(runtime.device.type))
    return TrainingAssignment(setup, anywhere, torch.get_num_threads(), snapshot)


def run_worker_rank(ranks: ProcessGroup) -> None:
    """Do this rank's share of every training that rank 0 leads, until that one's program ends; nothing is written."""
    tune_malloc()
    with interrupts.defer_signals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rank 0 says it
        for setup, runtime, threads, snapshot in ranks.receive_work():
            torch.set_num_threads(threads)
            here = replace(runtime, ranks=ranks, device=ranks.device(runtime.device))
            snapshot.sums = snapshot.sums.to(here.device)
            for _ in _make_trainer(setup, here, snapshot):
                if ranks.agree_to_stop():
                    break


def checkpoint_path(job: Job, runtime: Runtime) -> Path:
    """Where the training's checkpoint lies, whether it is there or not; names for people may have changed since."""
    folder = Path(runtime.folders.checkpoints)
    return next(iter(sorted(folder.glob(f"*-{job.digest[:8]}.pt"))), folder / f"{job.name}.pt")


def load_snapshot(job: Job, runtime: Runtime) -> tuple[Path, TrainingState | None]:
    """Where the training's checkpoint lies, and what is in it."""
    path = checkpoint_path(job, runtime)
    return path, checkpoint.load(path, job.digest, runtime.device) if path.exists() else None


def _progress_note(now: TrainingState) -> str:
    if not now.epoch:
        return ""
    return f"epoch {now.epoch}: test {100 * now.curves['test_accuracy'][-1]:.2f}%, {now.curves['seconds'][-1]:.1f} s"


@contextmanager
def _tensorboard(job: Job, runtime: Runtime, done: int) -> Iterator[Callable[[TrainingState], None]]:
    """A function that writes the epochs that are new in a snapshot; ``done`` were written before."""
    if not runtime.tensorboard:
        yield lambda now: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow to import)
    except ImportError:
        progress.console.print("tensorboard is not installed: curves go into the record alone")
        yield lambda now: None
        return
    written = done

    def log(now: TrainingState) -> None:
        nonlocal written
        while written < now.epoch:
            for name, values in now.curves.items():
                writer.add_scalar(name, values[written], written)
            written += 1
            writer.flush()

    with SummaryWriter(str(Path(runtime.folders.logs) / "tensorboard" / job.name), purge_step=done) as writer:
        yield log


def init_model(setup: Experiment, runtime: Runtime) -> nn.Module:
    """The network at its start: the same for the same seed, whatever the method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(setup.seed, "start"))
        model: nn.Module = setup.model.build(setup.data.shape, setup.data.classes)
    if setup.batchnorm_init is BatchNormInit.uniform and not setup.model.initializes_batchnorm:
        init_uniform_(model, make_generator(setup.seed, "batchnorm"))
    layout = runtime.engine.resolve_memory_format(runtime.device, setup.precision)
    return layout.applied_to(model.to(runtime.device))


def load_splits(setup: Experiment, runtime: Runtime) -> tuple[Split, Split, str]:
    """The training split, the test split, and the fingerprint of the data set."""
    train_split, test_split, fingerprint = _load(
        setup.data, Path(runtime.folders.data), runtime.device, runtime.download
    )
    layout = runtime.engine.resolve_memory_format(runtime.device, setup.precision).memory_format
    return train_split.to_memory_format(layout), test_split.to_memory_format(layout), fingerprint


@lru_cache(maxsize=2)
def _load(data: Any, folder: Path, device: torch.device, download: bool) -> tuple[Split, Split, str]:
    loaded: tuple[Split, Split, str] = data.load(folder, device, download)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # trainings on other streams use what was copied on this one
    return loaded
