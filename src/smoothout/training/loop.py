"""The loop around the update: epochs, order of examples, noise strength, learning rate, evaluation, best weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import nn

from smoothout.data.images import Split
from smoothout.evaluation import Precision, arithmetic, evaluate
from smoothout.perturbation import Noise, SmoothOut, SmoothOutCopies
from smoothout.randomness import address, stream
from smoothout.training.checkpoint import Snapshot
from smoothout.training.schedule import Schedule
from smoothout.training.step import Batch, update

EVALUATION_BATCH = 1000


class OptimizerSettings(Protocol):
    """What the loop asks of an optimizer's settings."""

    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def clip_norm(self) -> float | None: ...  # noqa: D102
    @property
    def reset_every_epoch(self) -> bool: ...  # noqa: D102
    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer: ...  # noqa: D102


def train(
    model: nn.Module,
    train_split: Split,
    test_split: Split,
    *,
    optimizer: OptimizerSettings,
    schedule: Schedule,
    batch: Batch,
    noise: Noise,
    seed: int,
    precision: Precision = Precision.float32,
    resume: Snapshot | None = None,
    after_step: Callable[[Snapshot, Callable[[], Snapshot]], None] = lambda now, frozen: None,
) -> Snapshot:
    """Train ``model`` in place; returns the last snapshot, whose ``best`` holds the weights of the best test epoch.

    All chance comes from ``seed`` by address, so a run that goes on from a snapshot (``resume``) does what the unbroken
    run would have done; on a CPU with the same threads and versions, to the last bit.

    Args:
        model: fresh, on the splits' device; its weights are replaced when there is a ``resume``.
        train_split: what is learnt, in a new order every epoch; the last, smaller batch counts.
        test_split: measured after every epoch in evaluation mode with clean weights.
        optimizer: settings; ``schedule`` moves its learning rate.
        schedule: how many epochs, and where the learning rate drops.
        batch: examples an update, in which ghost batches.
        noise: SmoothOut's noise.
        seed: of everything but the start weights, which are the model's own.
        precision: of training and evaluation.
        resume: where to go on from.
        after_step: called after every update with the live state, whose counters and curves may be read, and a function
            that makes it ready to be saved. It may raise to stop.

    With dropout, torch's global generator is seeded anew at every ghost batch. A loss that is no longer finite at the
    end of an epoch ends the training: its curves are shorter than ``schedule.epochs`` then, and end in nan.
    """
    device = train_split.labels.device
    updates = batch.updates(len(train_split))
    now = resume or Snapshot({}, {}, {}, torch.zeros(2, dtype=torch.float64, device=device))
    built = optimizer.build(list(model.parameters()))
    if resume:
        model.load_state_dict(now.model)
        if now.optimizer:
            built.load_state_dict(now.optimizer)
    now.model = model.state_dict()  # the live tensors: they follow the training
    perturbations = _perturbations(model, noise, seed, schedule.epochs * updates, device)
    since = time.perf_counter() - now.elapsed

    def frozen() -> Snapshot:
        now.optimizer, now.elapsed = built.state_dict(), time.perf_counter() - since
        return now

    with arithmetic(precision, device):
        while now.epoch < schedule.epochs and not now.diverged:
            if optimizer.reset_every_epoch and now.step == 0:
                built = optimizer.build(list(model.parameters()))
            for group in built.param_groups:
                group["lr"] = optimizer.lr * schedule.lr_factor(now.epoch)
            order = torch.randperm(len(train_split), generator=stream(seed, "order", now.epoch)).to(device)
            model.train()
            while now.step < updates:
                rows = order[now.step * batch.size : (now.step + 1) * batch.size]
                pieces = (train_split.take(piece) for piece in rows.chunk(batch.pieces))
                perturb = partial(perturbations, now.epoch * updates + now.step)
                now.sums += torch.stack(update(model, built, pieces, perturb, optimizer.clip_norm))
                now.step += 1
                after_step(now, frozen)
            _close_epoch(now, model, train_split, test_split)
            now.curves["seconds"].append(time.perf_counter() - since)
            since, now.elapsed = time.perf_counter(), 0.0
    return now


def _close_epoch(now: Snapshot, model: nn.Module, train_split: Split, test_split: Split) -> None:
    """Measure the epoch that ended, keep its weights if they are the best, and begin the next one."""
    loss, right = (now.sums / len(train_split)).tolist()
    measured = evaluate(model, test_split.batches(EVALUATION_BATCH))
    row = {"train_loss": loss, "train_accuracy": right, "test_loss": measured.loss, "test_accuracy": measured.accuracy}
    for name, value in row.items():
        now.curves[name].append(value)
    if now.best_epoch == now.epoch:
        now.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    now.epoch, now.step, now.sums = now.epoch + 1, 0, torch.zeros_like(now.sums)


def _perturbations(
    model: nn.Module, noise: Noise, seed: int, total: int, device: torch.device
) -> Callable[[int, int], Sequence[AbstractContextManager[object]]]:
    """For (update, ghost batch): the contexts of its perturbed models. Dropout's chance is set there too."""
    drops = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in model.modules())
    context: SmoothOut | None = noise.on(model) if noise.a and not noise.copies else None
    copies = SmoothOutCopies(noise.on(model), noise.copies, seed) if noise.a and noise.copies else None

    def perturbed(step: int, ghost: int) -> Sequence[AbstractContextManager[object]]:
        if drops:
            torch.manual_seed(address(seed, "dropout", step, ghost))
        if copies is not None:
            return copies
        if context is None:
            return [nullcontext()]
        context.a = noise.strength(step, total)
        context.generator = stream(seed, "noise", step, ghost if noise.draw == "ghost" else 0, device=device)
        return [context]

    return perturbed
