"""One job, or several in turn: find its record, or make it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from smoothout.common import pass_cache, progress
from smoothout.common.environment import peak_memory
from smoothout.common.machine_errors import is_out_of_memory
from smoothout.config.build import Experiment, SettingsError
from smoothout.data.datasets import DataError
from smoothout.jobs.concurrency import Queue, Turn, Turns, forget_frames
from smoothout.jobs.job import Job, Workplace
from smoothout.jobs.training_job import check, check_networks, data_of, fresh_model, training
from smoothout.nn.curvature import thinned
from smoothout.nn.evaluation import Precision, arithmetic, evaluate, evaluation_batch
from smoothout.nn.noise_strength import relative_strength
from smoothout.results.digest import canonical, described
from smoothout.results.records import Record, RecordError, lock, no_json
from smoothout.training.checkpoint import CheckpointError, StateDict

SAME_ACCURACY = 0.02  # a share; where sums are rounded otherwise, the same weights may do a little better or worse
WAIT_SECONDS = 0.1  # between two looks at locks that others hold
Making = Generator[bool, None, Record]  # pauses after every update of a training, and (False) while it has to wait


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


def of_other_weights(jobs: Iterable[Job], place: Workplace) -> list[str]:
    """The runs of which an analysis among ``jobs`` saw other weights than those that the run's own record speaks of.

    That is so where a checkpoint was lost and its run trained again on a machine that rounds otherwise.
    """
    names = set()
    for job in jobs:
        record = recorded(job, place) if job.inputs else None
        for one, digest in zip(job.inputs, record.outcome.get("weights", ()) if record else (), strict=False):
            run = recorded(one, place)
            if run is not None and run.outcome["weights"][str(job.settings.weights)] != digest:
                names.add(run.name)
    return sorted(names)


def ensure(job: Job, place: Workplace) -> Record:
    """The job's record; what is missing is made, inputs first, and what is there is never made twice."""
    [(_, outcome)] = together([job], place.alone())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def together(jobs: Iterable[Job], place: Workplace) -> Iterator[tuple[Job, Record | Exception]]:
    """The records of ``jobs`` as they come, each made as ``ensure`` makes it; or why a job failed.

    As many trainings as the place's engine says, and as memory holds, take turns, update by update, each on a CUDA
    stream of its own: small networks leave most of a GPU idle. One that runs out of memory beside others is put back,
    and fewer run at the same time. When they are asked to stop, every one of them leaves its checkpoint behind.
    """
    waiting, turns, active = Queue(jobs), Turns(place, place.turns), dict[Job, tuple[Making, Turn]]()
    stopped: KeyboardInterrupt | None = None
    while True:
        while not stopped and turns.have_room() and (first := waiting.first()) is not None and turns.admits(first):
            turn, here = turns.begin(waiting.take())
            active[first] = _making(first, here), turn
        if not active:
            break
        worked = False
        for job, (making, turn) in list(active.items()):
            outcome: Record | Exception | None = None
            try:
                with turn.entered():
                    updated = next(making)
                turns.step(turn, worked=updated)
                worked |= updated
                continue
            except StopIteration as done:
                outcome = done.value
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
                if not progress.asked_to_stop():  # nobody told the others: they go on from their last checkpoints
                    active.clear()
                    break
            except Exception as error:
                forget_frames(error)
                outcome = error
            del active[job], making
            if is_out_of_memory(outcome) and turns.fewer():
                waiting.put_back(job)
                progress.console.print(f"{job.name}: no memory for it; again with at most {turns.most} at a time")
                outcome = None
            turns.end(job)
            worked = True
            if outcome is not None:
                yield job, outcome
        if active and not worked:
            time.sleep(WAIT_SECONDS)
    if stopped:
        raise stopped


def _held(right: FileLock) -> Generator[bool, None, AbstractContextManager[Any]]:
    """The right to make a record, or weights; pauses while another process or job has it."""
    while True:
        with suppress(Timeout):
            held: AbstractContextManager[Any] = right.acquire(timeout=0)
            return held
        progress.stop_if_asked()
        yield False


def _weights_lock(job: Job, place: Workplace) -> FileLock:
    """It lies beside the checkpoints, for several results folders may share them."""
    return lock(Path(place.folders.checkpoints), "checkpoints", f"weights-{job.digest[:8]}")


def refuse(job: Job, place: Workplace) -> None:
    """Find what is wrong with a training, or with an analysis and its runs, before anything is written or trained.

    Raises SettingsError, DataError or CheckpointError.
    """
    check_networks(job)
    for one in job.inputs or (job,):
        check(one, place)


def _making(job: Job, place: Workplace) -> Making:
    record = recorded(job, place)
    if record is not None:
        return record
    summary = hasattr(job.settings, "from_records")  # of the input records alone
    of_machine = hasattr(job.settings, "measure")  # neither a training nor of one
    if not (summary or of_machine):
        refuse(job, place)
    inputs = []
    for one in job.inputs:
        inputs.append((yield from _making(one, place)))
    with (yield from _held(place.ledger.lock(job.kind, job.digest))):
        record = recorded(job, place)
        if record is not None:
            return record
        started = time.perf_counter()
        if summary:
            outcome = job.settings.from_records(inputs)
        elif of_machine:
            outcome = _measured(job, place)
        else:
            outcome = yield from _analysis_outcome(job, inputs, place) if inputs else _training_outcome(job, place)
        record = Record(
            kind=job.kind,
            name=job.name,
            digest=job.digest,
            identity=job.identity,
            settings=described(job.settings),
            labels=_shared([one.labels for one in inputs] or [job.settings.labels]),
            inputs=[one.name for one in inputs],
            outcome={"wall_seconds": time.perf_counter() - started, **outcome},
            environment=place.environment(),
        )
        written = place.ledger.write(record)
        pass_cache.forget(_journal(job, place))
        return written


def _journal(job: Job, place: Workplace) -> Path:
    """The folder of what an analysis has found so far."""
    return Path(place.folders.checkpoints) / f"{job.name}.passes"


def _measured(job: Job, place: Workplace) -> dict[str, Any]:
    """What the job measures of the machine."""
    try:
        outcome: dict[str, Any] = job.settings.measure(place.device)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return outcome


def _shared(labels: list[dict[str, Any]]) -> dict[str, Any]:
    """The labels that are the same in all of ``labels``."""
    first, *others = labels
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _analysis_outcome(job: Job, runs: list[Record], place: Workplace) -> Generator[bool, None, dict[str, Any]]:
    """Run an analysis on the weights of its input ``runs``, in float32; on other data than theirs it is refused."""
    train_split, test_split, fingerprint = data_of(job.inputs[0].settings, place)
    for run in runs:
        if run.outcome["data_sha256"] != fingerprint:
            data = f"data: {run.labels['data']} in {place.folders.data} is not what {run.name} was trained on"
            raise DataError(f"{data}; put that back, or train it anew with other folders.results and checkpoints")
    models, digests = [], []
    for one in job.inputs:
        model, accuracy = yield from _network(one, job.settings.weights, place)
        _check_code(model, one.settings, accuracy, place)
        digests.append(_digest(model.state_dict()))
        models.append(model)
    total = job.settings.ticks(len(train_split), len(test_split))
    circumstances = canonical([digests, fingerprint, place.environment()])
    exactly = arithmetic(Precision.float32, place.device)  # torch's own default lets CUDA's convolutions use TF32
    with progress.Bar(job.name, total) as bar, pass_cache.kept(_journal(job, place), circumstances), exactly:
        outcome: dict[str, Any] = job.settings.run(models, train_split, test_split, bar.tick)
    for key, value in outcome.items():
        if wrong := no_json(value):
            raise TypeError(f"{job.kind}: run() returned a {wrong} under {key!r}; a record holds numbers and lists")
    return {**outcome, "weights": digests}


def _check_code(model: nn.Module, setup: Experiment, accuracy: float, place: Workplace) -> None:
    """Raise CheckpointError where the network is another function now: its code was changed since it was trained."""
    _, test_split, _ = data_of(setup, place)
    with arithmetic(setup.precision, place.device):
        now = evaluate(model, test_split.batches(evaluation_batch(place.device))).accuracy
    if abs(now - accuracy) > SAME_ACCURACY:
        raise CheckpointError(
            f"model: {setup.slug()}: the same weights had a test accuracy of {accuracy:.2%} and now have {now:.2%}: was"
            " the code changed since? Give what is new another name or setting, or delete the old record and checkpoint"
        )


def _network(job: Job, which: str, place: Workplace) -> Generator[bool, None, tuple[nn.Module, float]]:
    """The run's network with its best or last weights, in evaluation mode, and the test accuracy that they had.

    Without a checkpoint it is trained first.
    """
    with (yield from _held(_weights_lock(job, place))):
        snapshot = yield from training(job, place)
    model = fresh_model(job.settings, place)
    model.load_state_dict(snapshot.model if which == "last" else snapshot.best)
    return model.eval(), snapshot.curves["test_accuracy"][-1 if which == "last" else snapshot.best_epoch]


def network(job: Job, which: str, place: Workplace) -> nn.Module:
    """The same of a run whose record is there, or is made first. Raises what `ensure` raises."""
    ensure(job, place)
    steps = _network(job, which, place)
    while True:
        try:
            if not next(steps):
                time.sleep(WAIT_SECONDS)
        except StopIteration as done:
            model: nn.Module = done.value[0]
            return model


def _training_outcome(job: Job, place: Workplace) -> Generator[bool, None, dict[str, Any]]:
    """Train, and measure the best and the last weights on both splits without noise."""
    setup: Experiment = job.settings
    train_split, test_split, fingerprint = data_of(setup, place)
    with (yield from _held(_weights_lock(job, place))):
        snapshot = yield from training(job, place)
    model = fresh_model(setup, place)
    measured = {}
    for which, weights, epoch in (
        ("best", snapshot.best, snapshot.best_epoch),
        ("last", snapshot.model, snapshot.epoch - 1),
    ):
        model.load_state_dict(weights)
        with arithmetic(setup.precision, place.device):
            clean = {
                name: evaluate(model, split.batches(evaluation_batch(place.device)))
                for name, split in (("train", train_split), ("test", test_split))
            }
        numbers = {f"{name}_{what}": getattr(m, what) for name, m in clean.items() for what in ("loss", "accuracy")}
        measured[which] = {"epoch": epoch, **numbers}
    return {
        **measured,
        "diverged": snapshot.diverged,
        "train_seconds": sum(snapshot.curves["seconds"]),
        "peak_memory": peak_memory(place.device) if place.turns == 1 else None,  # else it is that of several
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": {"train": len(train_split), "test": len(test_split)},
        "data_sha256": fingerprint,
        "weights": {"best": _digest(snapshot.best), "last": _digest(snapshot.model)},
        "machines": snapshot.machines,
        "curves": snapshot.curves,
        "curvature": thinned(snapshot.curvature),
        **_strength(setup, snapshot.epoch, len(train_split), fresh_model(setup, place), model),
    }


def _strength(setup: Experiment, epochs: int, examples: int, first: nn.Module, last: nn.Module) -> dict[str, Any]:
    """How strong the noise was beside the first weights and the last, those after ``epochs``; nothing without noise."""
    noise, updates = setup.perturbation, setup.batch.updates(examples)
    if not noise.a:
        return {}
    at = {"start": (first, 0), "end": (last, epochs * updates - 1)}
    total = setup.schedule.epochs * updates
    return {"relative_strength": {when: relative_strength(m, noise, step, total) for when, (m, step) in at.items()}}


def _digest(weights: StateDict) -> str:
    """SHA-256 over the tensors of a state dict."""
    found = hashlib.sha256()
    for tensor in weights.values():
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return found.hexdigest()
