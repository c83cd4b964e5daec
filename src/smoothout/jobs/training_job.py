"""One training job: `prepare_run`, then `train` (resume, save checkpoints, log), then `summarize` for the record."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import Tensor, nn

from smoothout.analysis.options import WhichWeights
from smoothout.common import interrupts, progress
from smoothout.common.environment import peak_memory
from smoothout.common.errors import CheckpointError, ConfigError, DataError
from smoothout.common.files import ensure_writable
from smoothout.config.experiment import Experiment
from smoothout.data.split import Split
from smoothout.jobs.job import Job
from smoothout.jobs.locks import acquire, weights_lock
from smoothout.jobs.lookup import checkpoint_path, find_record
from smoothout.jobs.prepared_run import PreparedRun, has_weights, init_model, is_done, load_splits, weights_digest
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.steps import Step, Steps
from smoothout.nn.curvature import thin_epochs
from smoothout.nn.evaluation import ClassificationMetrics, EvalResult, eval_batch_size, evaluate
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context
from smoothout.results import per_image
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.cuda_graph import CaptureError
from smoothout.training.distributed import ProcessGroup
from smoothout.training.dropout import UnseededError
from smoothout.training.engine import Engine, tune_malloc
from smoothout.training.noise_strength import batch_gradient
from smoothout.training.trainer import Trainer

# Train


def train_locked(run: PreparedRun, which: WhichWeights = WhichWeights.last) -> Steps[TrainingState]:
    """As `train`, while holding the lock on the weights."""
    with (yield from acquire(weights_lock(run.job, run.runtime))):
        # The previous holder of the lock may have trained it, so read the checkpoint again.
        return (yield from train(run.refreshed(), which))


def train(run: PreparedRun, which: WhichWeights = WhichWeights.last) -> Steps[TrainingState]:
    """Train ``run`` from its checkpoint or from the start until it has its ``which`` weights.

    Pauses after every update, and returns the state with these weights. It is that at the end of the training, or at
    the end of the best epoch if a recorded run is trained again and its best weights have the recorded digest. On a
    stop signal, saves a checkpoint and raises Interrupted.
    """
    state, runtime, path = run.state, run.runtime, run.checkpoint_path
    record = find_record(run.job, runtime) if which is WhichWeights.best else None
    if state is not None and state.data_sha256 not in (None, run.data_sha256):
        data = f"{run.experiment.data.name} in {runtime.folders.data}"
        raise CheckpointError(
            f"checkpoint: {path} was trained on other data than {data}; restore that data, or delete the checkpoint"
        )
    if has_weights(state, which, run.experiment, record):
        return state
    model = init_model(run.experiment, runtime) if state else (yield from _start(run))
    training = _Training(run, model)
    ensure_writable(path)
    best_epochs = record.outcome["best"]["epoch"] + 1 if record else 0
    stops = [best_epochs] if best_epochs > (state.epoch if state else 0) else []
    for epochs in (*stops, run.experiment.schedule.epochs):
        # Within this block, other ranks create the same trainer and do their share of every update.
        with runtime.ranks.broadcast_work(partial(training.assignment, epochs)):
            end = yield from training.updates(epochs)
        if has_weights(end, which, run.experiment, record):
            break
    training.save(end, run.job, done=is_done(end, run.experiment))
    return end


class _Training:
    """A running training: its trainer and its checkpoints."""

    def __init__(self, run: PreparedRun, model: nn.Module) -> None:
        self._run, self._machines = run, run.state.machines if run.state else []
        self._beginnings = {beginning.settings.schedule.epochs: beginning for beginning in _beginnings(run.job)}
        self._trainer = _make_trainer(
            run.experiment,
            run.runtime,
            model,
            (run.train_split, run.test_split),
            state=run.state,
            after_epoch=self._keep_beginning,
        )

    def assignment(self, epochs: int) -> tuple[Experiment, Runtime, int, TrainingState, int]:
        """The message for other ranks to join the training until ``epochs`` epochs are complete."""
        # The process group and the GPU index belong to this process, so they are left out.
        runtime, state = self._run.runtime, self._trainer.state()
        sendable = replace(runtime, ranks=ProcessGroup(), device=torch.device(runtime.device.type))
        state.data_sha256 = self._run.data_sha256
        return self._run.experiment, sendable, torch.get_num_threads(), state, epochs

    def updates(self, epochs: int) -> Steps[TrainingState]:
        """Train until ``epochs`` epochs are done; pauses after every update, returns the last state."""
        run, runtime, state = self._run, self._run.runtime, self._trainer.state()
        per_epoch = run.experiment.batch.updates_per_epoch(len(run.train_split))
        log = _curve_writer(run.job, runtime, state.epoch)
        saved_at = time.monotonic()
        with progress.Bar(run.job.name, epochs * per_epoch, state.epoch * per_epoch + state.step) as bar:
            for state in _updates(self._trainer, epochs):
                log(state)
                bar.step(_progress_note(state))
                # All ranks stop after the same update, also those without a signal.
                stopping = runtime.ranks.agree_to_stop()
                if stopping or time.monotonic() - saved_at > runtime.checkpoint_seconds:
                    self.save(self._trainer.state(), run.job)
                    saved_at = time.monotonic()
                if stopping:
                    interrupts.raise_if_interrupted()
                yield Step.updated
            end = self._trainer.state()
            log(end)
        return end

    def save(self, state: TrainingState, job: Job, *, done: bool = False) -> None:
        """Save ``state`` as the checkpoint of ``job``, without the optimizer's state if it is ``done``."""
        runtime = self._run.runtime
        machine = runtime.environment(self._trainer.engine)  # it may have fallen back to eager updates
        if machine not in self._machines:
            self._machines = [*self._machines, machine]
        state.machines = self._machines
        state.data_sha256 = self._run.data_sha256
        if done:
            state.optimizer = {}  # nothing resumes from here
        checkpoint.save(checkpoint_path(job, runtime), state, job.digest)

    def _keep_beginning(self, state: TrainingState) -> None:
        """Save the weights of a shorter training that ends with this epoch, unless they exist or are in training."""
        runtime = self._run.runtime
        if beginning := self._beginnings.get(state.epoch):
            with suppress(Timeout), weights_lock(beginning, runtime).acquire(timeout=0):
                if not (path := checkpoint_path(beginning, runtime)).exists():
                    ensure_writable(path)  # also removes the leftovers of a killed writer
                    self.save(self._trainer.state(), beginning, done=True)


def _start(run: PreparedRun) -> Steps[nn.Module]:
    """The network at the start of the training; if its weights come from another run, trains that if necessary."""
    model, start = init_model(run.experiment, run.runtime), run.experiment.init_from
    if run.source and start:
        state = yield from train_locked(run.source, start.checkpoint)
        model.load_state_dict(state.best if start.checkpoint is WhichWeights.best else state.model)
    return model


def _beginnings(job: Job) -> list[Job]:
    """The shorter trainings that are beginnings of ``job``; it saves their checkpoints."""
    schedules = job.settings.schedule.beginnings()
    return [Job(replace(job.settings, schedule=schedule)) for schedule in schedules]


def _updates(trainer: Trainer, epochs: int) -> Iterator[TrainingState]:
    """Train, update by update.

    Raises ConfigError if a required CUDA graph cannot be captured, or the model draws unseeded random numbers.
    """
    try:
        yield from trainer.until(epochs)
    except UnseededError as error:
        raise ConfigError(str(error)) from error
    except CaptureError as error:
        raise ConfigError(
            f"engine.launch: graph: the update cannot be captured as a CUDA graph ({error}); use launch=auto"
        ) from error


def _make_trainer(
    experiment: Experiment,
    runtime: Runtime,
    model: nn.Module,
    splits: tuple[Split, Split],
    *,
    state: TrainingState | None,
    after_epoch: Callable[[TrainingState], None] = lambda state: None,
) -> Trainer:
    """The trainer. Raises ConfigError for settings that its model or device does not support."""
    try:
        return Trainer(
            model,
            *splits,
            optimizer=experiment.optimizer,
            schedule=experiment.schedule,
            batch=experiment.batch,
            method=experiment.method,
            seed=experiment.seed,
            precision=experiment.precision,
            augmentation=experiment.data.augmentation,
            engine=runtime.engine,
            resume=state,
            ranks=runtime.ranks,
            after_epoch=after_epoch,
        )
    except ValueError as error:
        names_engine_field = str(error).partition(":")[0] in {field.name for field in fields(Engine)}
        raise ConfigError(f"engine.{error}" if names_engine_field else str(error)) from error


def _progress_note(state: TrainingState) -> str:
    if not state.epoch:
        return ""
    return (
        f"epoch {state.epoch}: test {100 * state.curves['test_accuracy'][-1]:.2f}%, {state.curves['seconds'][-1]:.1f} s"
    )


def _curve_writer(job: Job, runtime: Runtime, epochs_done: int) -> Callable[[TrainingState], None]:
    """A function that writes a state's new epochs for TensorBoard; ``epochs_done`` were written before."""
    if not runtime.tensorboard:
        return lambda state: None
    from smoothout.jobs.curves import CurveLog  # noqa: PLC0415  (TensorBoard is slow to import)

    return CurveLog(Path(runtime.folders.logs) / "tensorboard" / job.name, epochs_done).write


# Summarize


def summarize(run: PreparedRun, state: TrainingState) -> Steps[dict[str, Any]]:
    """The outcome of a training that ended in ``state``: its best and last weights measured on both splits."""
    experiment, runtime, device = run.experiment, run.runtime, run.runtime.device
    model = yield from _start(run)
    start = [parameter.detach().double() for parameter in model.parameters()]
    updates = experiment.batch.updates_per_epoch(len(run.train_split))
    total = updates * experiment.schedule.epochs
    first = slice(experiment.batch.examples_per_pass)

    def gradient() -> list[Tensor]:
        with precision_context(Precision.float32, device):  # torch's default lets cuDNN use TF32
            return batch_gradient(model, *run.train_split.gather(first))

    strength = partial(experiment.method.relative_strength, model, total=total, gradient=gradient)
    strength_at_start = strength(0)
    measured: dict[str, dict[str, Any]] = {}
    # Both sets of weights in the precision of the training, with the running statistics that it has left.
    for which, weights, epoch in (("best", state.best, state.best_epoch), ("last", state.model, state.epoch - 1)):
        model.load_state_dict(weights)
        measured[which] = {"epoch": epoch, "distance": _distance(model, start)}
        with precision_context(experiment.precision, device):
            for name, split in (("train", run.train_split), ("test", run.test_split)):
                result, right = _evaluate(model, split)
                measured[which] |= {f"{name}_loss": result.loss, f"{name}_accuracy": result.accuracy}
        measured[which][per_image.KEY] = per_image.pack_right(right.cpu().numpy())  # of the test split
    strengths = {"start": strength_at_start, "end": strength(state.epoch * updates - 1)}
    strengths = {when: value for when, value in strengths.items() if value is not None}
    alone = runtime.concurrent_trainings == 1  # otherwise the peak is that of several trainings
    return {
        **measured,
        "diverged": state.diverged,
        "train_seconds": sum(state.curves["seconds"]),
        "peak_memory": peak_memory(device) if alone else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "examples": {"train": len(run.train_split), "test": len(run.test_split)},
        "data_sha256": run.data_sha256,
        "weights": {"best": weights_digest(state.best), "last": weights_digest(state.model)},
        "machines": state.machines,
        "curves": state.curves,
        "curvature": thin_epochs(state.curvature),
        **({"passes": experiment.method.passes} if experiment.method.passes != 1 else {}),
        **({"relative_strength": strengths} if strengths else {}),
    }


def _distance(model: nn.Module, start: Sequence[Tensor]) -> float | None:
    """The Euclidean distance of the parameters from ``start``; None if they are not finite."""
    moves = [parameter.detach() - old for parameter, old in zip(model.parameters(), start, strict=True)]
    distance = float(torch.stack([move.norm() for move in moves]).norm())
    return distance if math.isfinite(distance) else None


def _evaluate(model: nn.Module, split: Split) -> tuple[EvalResult, Tensor]:
    """Loss and accuracy on ``split``, and whether each example is classified correctly: bool, (examples,)."""
    metrics = ClassificationMetrics()
    batches = split.batches(eval_batch_size(split.labels.device))
    return evaluate(model, batches, metrics_class=lambda: metrics), metrics.right


# Other ranks


def run_worker_rank(ranks: ProcessGroup) -> None:
    """Do this rank's share of every training until the program on rank 0 ends; writes nothing."""
    tune_malloc()
    with interrupts.defer_signals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rank 0 prints them
        for experiment, runtime, threads, state, epochs in ranks.receive_work():
            torch.set_num_threads(threads)
            local = replace(runtime, ranks=ranks, device=ranks.device(runtime.device))
            state.sums = state.sums.to(local.device)
            train_split, test_split, data_sha256 = load_splits(experiment, local)
            if data_sha256 != state.data_sha256:
                raise DataError(f"data: rank {ranks.rank} loaded other examples of {experiment.data.name} than rank 0")
            model = init_model(experiment, local)  # the state has its weights
            for _ in _make_trainer(experiment, local, model, (train_split, test_split), state=state).until(epochs):
                if ranks.agree_to_stop():
                    break
