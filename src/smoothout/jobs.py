"""One job: find its record, or make it. A job is a pure function of its kind, its settings and its input records."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothout import progress
from smoothout.batchnorm import BatchNormStart, uniform_start
from smoothout.data.images import Images, Split
from smoothout.environment import environment
from smoothout.evaluation import arithmetic, evaluate
from smoothout.files import remove_parts
from smoothout.identity import described, digest
from smoothout.ledger import Ledger, Record, RecordError
from smoothout.parameters import BATCHNORM
from smoothout.randomness import address, stream
from smoothout.settings import Experiment, Folders, SettingsError
from smoothout.training import checkpoint
from smoothout.training.checkpoint import Snapshot
from smoothout.training.loop import EVALUATION_BATCH, train


@dataclass(frozen=True)
class Job:
    """A training (``settings`` is an Experiment), or an analysis of the trained runs ``inputs``."""

    settings: Any
    inputs: tuple[Job, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of job, and the folder of its records."""
        return str(self.settings.kind)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the digest covers."""
        return {
            "kind": self.kind,
            "numerics": self.settings.numerics,
            "settings": described(self.settings, defaults=False),
            "inputs": [job.digest for job in self.inputs],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    @property
    def name(self) -> str:
        """The record's name: a slug for people and eight digits of the digest."""
        return f"{self.settings.slug(*(job.settings.slug() for job in self.inputs))}-{self.digest[:8]}"


@dataclass(frozen=True)
class Workplace:
    """Where jobs run; nothing here changes what they are.

    Args:
        folders: data sets, records, checkpoints, logs.
        device: of the models and the data.
        download: whether missing data may be fetched.
        tensorboard: whether curves are written to the logs folder for TensorBoard.
        checkpoint_seconds: time between two checkpoints.
    """

    folders: Folders
    device: torch.device
    download: bool = True
    tensorboard: bool = False
    checkpoint_seconds: float = 60.0

    @property
    def ledger(self) -> Ledger:
        """The records."""
        return Ledger(Path(self.folders.results))


def recorded(job: Job, place: Workplace) -> Record | None:
    """The job's record, or None. Raises RecordError when the file is not what this program would have made."""
    record = place.ledger.find(job.kind, job.digest)
    if record is not None and not _agrees(record.settings, described(job.settings)):
        raise RecordError(
            f"record: {record.name} was made with other defaults than this version has; its settings say with which"
        )
    return record


def _agrees(old: Any, new: Any) -> bool:
    """Whether every setting that the record knows has the same value now; settings added later may stand in ``new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and _agrees(value, new[key]) for key, value in old.items())
    return bool(old == new)


def ensure(job: Job, place: Workplace) -> Record:
    """The job's record; what is missing is made, inputs first, and what is there is never made twice."""
    record = recorded(job, place)
    if record is not None:
        return record
    inputs = [ensure(one, place) for one in job.inputs]
    for one in job.inputs or (job,):
        _check(one, place)
    with place.ledger.writing(job.kind, job.digest):
        record = recorded(job, place)
        if record is not None:
            return record
        started = time.perf_counter()
        outcome = _train_outcome(job, place) if job.kind == "train" else _analysis_outcome(job, inputs, place)
        labels = job.settings.labels if job.kind == "train" else inputs[0].labels
        record = Record(
            kind=job.kind,
            name=job.name,
            digest=job.digest,
            identity=job.identity,
            settings=described(job.settings),
            labels=labels,
            inputs=[one.name for one in inputs],
            outcome={"wall_seconds": time.perf_counter() - started, **outcome},
            environment=environment(place.device),
        )
        return place.ledger.write(record)


def _check(job: Job, place: Workplace) -> None:
    """Find what is wrong with a training's data, model, batch or checkpoint before anything is written."""
    setup: Experiment = job.settings
    train_split, _, _ = _data(setup.data, place)
    if setup.batch.size > len(train_split):
        raise SettingsError(f"batch.size: {setup.batch.size} is more than the {len(train_split)} training examples")
    try:
        with torch.device("meta"):
            model = setup.model.build(setup.data.shape, setup.data.classes)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    normalised = any(isinstance(module, BATCHNORM) for module in model.modules())
    if normalised and setup.batch.smallest_piece(len(train_split)) == 1:
        raise SettingsError(
            "batch.size: the last (ghost) batch has 1 example, and BatchNorm needs 2; take another size"
        )
    _snapshot(job, place)


def _analysis_outcome(job: Job, inputs: list[Record], place: Workplace) -> dict[str, Any]:
    """Run an analysis on the weights of its input runs."""
    train_split, test_split, _ = _data(job.inputs[0].settings.data, place)
    models, remade = [], []
    for one, record in zip(job.inputs, inputs, strict=True):
        with place.ledger.writing("weights", one.digest):
            snapshot = trained(one, place)
        weights = getattr(snapshot, "model" if job.settings.weights == "last" else "best")
        remade.append(_digest(weights) != record.outcome["weights"][str(job.settings.weights)])
        model = _fresh_model(one.settings, place.device)
        model.load_state_dict(weights)
        models.append(model.eval())
    total = job.settings.evaluations(len(train_split), len(test_split))
    with progress.Bar(job.name, total) as bar:

        def tick() -> None:
            progress.stop_if_asked()
            bar.step()

        outcome: dict[str, Any] = job.settings.run(models, train_split, test_split, tick)
    return {**outcome, "weights_remade": remade}


def _train_outcome(job: Job, place: Workplace) -> dict[str, Any]:
    """Train, and measure the best and the last weights on both splits without noise."""
    setup: Experiment = job.settings
    train_split, test_split, fingerprint = _data(setup.data, place)
    with place.ledger.writing("weights", job.digest):
        snapshot = trained(job, place)
    model = _fresh_model(setup, place.device)
    measured = {}
    for which, weights, epoch in (
        ("best", snapshot.best, snapshot.best_epoch),
        ("last", snapshot.model, snapshot.epoch - 1),
    ):
        model.load_state_dict(weights)
        with arithmetic(setup.precision, place.device):
            clean = {
                name: evaluate(model, split.batches(EVALUATION_BATCH))
                for name, split in (("train", train_split), ("test", test_split))
            }
        numbers = {f"{name}_{what}": getattr(m, what) for name, m in clean.items() for what in ("loss", "accuracy")}
        measured[which] = {"epoch": epoch, **numbers}
    return {
        **measured,
        "diverged": snapshot.diverged,
        "train_seconds": sum(snapshot.curves["seconds"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": {"train": len(train_split), "test": len(test_split)},
        "data_sha256": fingerprint,
        "weights": {"best": _digest(snapshot.best), "last": _digest(snapshot.model)},
        "machines": snapshot.machines,
        "curves": snapshot.curves,
    }


def trained(job: Job, place: Workplace) -> Snapshot:
    """The finished training of ``job``: from its checkpoint, or gone on with from there, or from the start."""
    setup: Experiment = job.settings
    path, snapshot = _snapshot(job, place)
    epochs = setup.schedule.epochs
    if snapshot is not None and (snapshot.epoch == epochs or snapshot.diverged):
        return snapshot
    train_split, test_split, _ = _data(setup.data, place)
    machines = snapshot.machines if snapshot else []
    here = environment(place.device)
    machines += [here] if here not in machines else []
    updates = setup.batch.updates(len(train_split))
    done = snapshot.epoch * updates + snapshot.step if snapshot else 0
    remove_parts(path)
    log = _tensorboard(job, place)
    saved = time.monotonic()
    with progress.Bar(job.name, epochs * updates, done) as bar:

        def after_step(now: Snapshot, frozen: Callable[[], Snapshot]) -> None:
            nonlocal saved
            log(now)
            bar.step(_note(now))
            if progress.asked_to_stop() or time.monotonic() - saved > place.checkpoint_seconds:
                now.machines = machines
                checkpoint.save(path, frozen(), job.digest)
                saved = time.monotonic()
            progress.stop_if_asked()

        snapshot = train(
            _fresh_model(setup, place.device),
            train_split,
            test_split,
            optimizer=setup.optimizer,
            schedule=setup.schedule,
            batch=setup.batch,
            noise=setup.perturbation,
            seed=setup.seed,
            precision=setup.precision,
            resume=snapshot,
            after_step=after_step,
        )
    log(snapshot)
    snapshot.optimizer, snapshot.machines = {}, machines
    checkpoint.save(path, snapshot, job.digest)
    return snapshot


def checkpoint_path(job: Job, place: Workplace) -> Path:
    """Where the training's checkpoint lies, whether it is there or not; names for people may have changed since."""
    folder = Path(place.folders.checkpoints)
    return next(iter(sorted(folder.glob(f"*-{job.digest[:8]}.pt"))), folder / f"{job.name}.pt")


def _snapshot(job: Job, place: Workplace) -> tuple[Path, Snapshot | None]:
    """Where the training's checkpoint lies, and what is in it."""
    path = checkpoint_path(job, place)
    return path, checkpoint.load(path, job.digest, place.device) if path.exists() else None


def _note(now: Snapshot) -> str:
    if not now.epoch:
        return ""
    return f"epoch {now.epoch}: test {100 * now.curves['test_accuracy'][-1]:.2f}%, {now.curves['seconds'][-1]:.1f} s"


def _tensorboard(job: Job, place: Workplace) -> Callable[[Snapshot], None]:
    """A function that writes the epochs that are new in a snapshot."""
    if not place.tensorboard:
        return lambda now: None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow to import)
    except ImportError:
        progress.console.print("tensorboard is not installed: curves go into the record alone")
        return lambda now: None
    writer = SummaryWriter(str(Path(place.folders.logs) / "tensorboard" / job.name))
    written = 0

    def log(now: Snapshot) -> None:
        nonlocal written
        while written < now.epoch:
            for name, values in now.curves.items():
                writer.add_scalar(name, values[written], written)
            written += 1
            writer.flush()

    return log


def _fresh_model(setup: Experiment, device: torch.device) -> nn.Module:
    """The network at its start: the same for the same seed, whatever the method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(setup.seed, "start"))
        model: nn.Module = setup.model.build(setup.data.shape, setup.data.classes)
    if setup.batchnorm_start is BatchNormStart.uniform and not setup.model.sets_batchnorm_start:
        uniform_start(model, stream(setup.seed, "batchnorm"))
    return model.to(device)


@lru_cache(maxsize=2)
def _load(data: Images, folder: Path, device: torch.device, download: bool) -> tuple[Split, Split, str]:
    return data.load(folder, device, download)


def _data(data: Images, place: Workplace) -> tuple[Split, Split, str]:
    return _load(data, Path(place.folders.data), place.device, place.download)


def _digest(weights: checkpoint.Weights) -> str:
    """SHA-256 over the tensors of a state dict."""
    found = hashlib.sha256()
    for tensor in weights.values():
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
