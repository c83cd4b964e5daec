"""The loop around the update: epochs, order of examples, noise strength, learning rate, evaluation, best weights."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.common.enums import parse_enum
from smoothout.common.rng import make_generator
from smoothout.data.split import Split
from smoothout.nn.evaluation import eval_batch_size, evaluate
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.cuda_graph import GraphedStep, RecordingError, State
from smoothout.training.distributed import GradientSync, ProcessGroup
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.ghost_batches import fit_one_pass, plan_passes
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.noise_contexts import NoiseContexts
from smoothout.training.optimizers import OptimizerConfig
from smoothout.training.schedule import Schedule
from smoothout.training.update import update

CURVATURE_DRAWS = 8  # an epoch: theta . gradient at so many of its updates costs half a percent


class Trainer:
    """One training of ``model``, in place: iterate over it to train, update by update.

        training = Training(model, train_split, test_split, optimizer=Adam(1e-3), schedule=Schedule(200), ...)
        for now in training:
            ...  # now.epoch, now.step, now.curves; training.frozen() can be saved, and gone on with

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
        augmentation: of what is learnt, of the kind that goes with the split; None is none.
        engine: how the updates reach the hardware; its ``auto`` choices are made here.
        resume: where to go on from.
        ranks: the processes that share the training; each makes a `Trainer` with the same arguments.

    With dropout, torch's global generator is seeded anew at every ghost batch. A loss that is no longer finite at the
    end of an epoch ends the training: no epoch follows, and the last training loss is nan or infinite.

    An update that proves impossible to record as a CUDA graph is carried out eagerly from then on, with one warning,
    unless ``engine.launch`` is graph.

    Raises:
        ValueError: where ``engine`` asks for what the device or the update cannot do; and in the first update, where
            the model draws chance by other means than torch.nn.Dropout and its kin (functional dropout, an LSTM's own).
        RecordingError: in an update, where ``engine.launch`` is graph and it cannot be recorded.
        torch.OutOfMemoryError: in an update. Where the device lacks memory for a recording alone and no other training
            takes turns on it (``engine.concurrent_trainings`` is 1), ``engine.launch`` auto goes on eagerly instead.
    """

    def __init__(
        self,
        model: nn.Module,
        train_split: Split,
        test_split: Split,
        *,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        batch: Batch,
        noise: NoiseConfig,
        seed: int,
        precision: Precision = Precision.float32,
        augmentation: Any = None,
        engine: Engine | None = None,
        resume: TrainingState | None = None,
        ranks: ProcessGroup | None = None,
    ) -> None:
        self._device, precision = train_split.labels.device, parse_enum(Precision, "precision", precision)
        self._updates = batch.updates_per_epoch(len(train_split))
        engine = engine or Engine()
        # The memory format comes first: the room for the noise is made for weights as they lie.
        self._model = engine.resolve_memory_format(self._device, precision).applied_to(model)
        self._perturb = NoiseContexts(
            model,
            noise,
            seed=seed,
            total=schedule.epochs * self._updates,
            every=max(1, self._updates // CURVATURE_DRAWS),
            ghosts=batch.ghosts_per_update,
            device=self._device,
        )
        self._ranks = ranks or ProcessGroup()
        self._shared = GradientSync(self._ranks, model, self._perturb)

        # How the updates reach the hardware follows from what all of the above allow.
        resident = train_split.resident
        recordable = self._perturb.recordable and optimizer.capturable and resident and self._ranks.size == 1
        one_pass = self._perturb.shares_noise and batch.ghosts_per_batch > 1 and resident
        self.engine = engine.resolved(self._device, precision, recordable, one_pass)
        train_split, self._test_split = (  # whose batches lie in memory as the weights do
            split.to_memory_format(self.engine.memory_format.memory_format) for split in (train_split, test_split)
        )
        if self.engine.ghosts is GhostPasses.batched:
            with precision_context(precision, self._device):
                fit = fit_one_pass(model, train_split.gather(slice(1))[0])
            self.engine = self.engine if fit else replace(self.engine, ghosts=GhostPasses.sequential)

        self._examples = train_split.training_view(augmentation, seed)
        self._settings, self._schedule, self._batch, self._seed = optimizer, schedule, batch, seed
        self._precision, self._lr = precision, math.nan
        self._now = resume or TrainingState({}, {}, {}, torch.zeros(2, dtype=torch.float64, device=self._device))
        self._optimizer = optimizer.build(list(model.parameters()))
        if resume:
            self._load(resume)
        self._buffers = [name for name, _ in model.named_buffers()]  # a forward pass may add others
        self._now.model = model.state_dict()  # the live tensors: they follow the training, but for replaced buffers

        # Compiling and recording come last, for they hold on to the tensors that they find.
        self._network: Any = torch.compile(model, dynamic=False) if self.engine.compile else model
        self._graphed: GraphedStep | None = None
        self._graph_required = engine.launch is Launch.graph
        if self.engine.launch is Launch.graph:
            self._prepare_graphs()
        self._since = time.perf_counter() - self._now.elapsed

    def _load(self, resume: TrainingState) -> None:
        """Take weights, optimizer state and curvature from where the training is resumed."""
        self._model.load_state_dict(resume.model)
        if self._perturb.trace and resume.trace:
            self._perturb.trace.load_state_dict(resume.trace)
        if resume.optimizer:
            self._optimizer.load_state_dict(resume.optimizer)
        for weight, state in self._optimizer.state.items():  # a fused update takes all for laid out as the weight
            like = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.dim() and v.shape == weight.shape}
            state.update({name: torch.empty_like(weight).copy_(v) for name, v in like.items()})

    def __iter__(self) -> Iterator[TrainingState]:
        """Train to the end; yields the live state after every update. It may be left, and gone on with by a new one."""
        now = self._now
        while now.epoch < self._schedule.epochs and not now.diverged:
            order = self._open_epoch()
            while now.step < self._updates:
                self._perturb.set_update(now.epoch * self._updates + now.step)
                self._set_lr(now.epoch + now.step / self._updates)
                with self._perturb.check_rng_use(), self._perturb.own_dropout():
                    self._work(
                        order[
                            now.step * self._batch.examples_per_update : (now.step + 1)
                            * self._batch.examples_per_update
                        ]
                    )
                now.step += 1
                yield now
            self._close_epoch()
        self._graphed = None  # graphs and gradients hold memory that whoever keeps this object has no use for
        self._optimizer.zero_grad(set_to_none=True)

    def run(self) -> TrainingState:
        """Train to the end; returns the last snapshot, whose ``best`` holds the weights of the best test epoch."""
        for _ in self:
            pass
        return self._now

    def state(self) -> TrainingState:
        """The live state, ready to be saved."""
        self._now.model = self._model.state_dict()
        self._now.optimizer, self._now.elapsed = self._optimizer.state_dict(), time.perf_counter() - self._since
        self._now.trace = self._perturb.trace.state_dict() if self._perturb.trace else {}
        for group in self._now.optimizer["param_groups"]:  # as it would be without a recording
            group.update(lr=float(group["lr"]), **({"capturable": False} if "capturable" in group else {}))
        return self._now

    def _work(self, rows: Tensor) -> None:
        """One update on the training examples ``rows``, replayed or eager."""
        failure = self._replay(rows) if self._graphed else None
        if failure is not None:
            warnings.warn(f"no CUDA graph of this update ({failure}); it is carried out eagerly", stacklevel=2)
            self._give_up_graphs()
        if self._graphed is None:
            self._compute(rows)

    def _replay(self, rows: Tensor) -> str | None:
        """Try the update as a CUDA graph; returns why that cannot be, with everything as it was."""
        assert self._graphed is not None
        try:
            self._graphed(self._compute, rows, self._state, self._perturb.measuring)
        except (RecordingError, torch.OutOfMemoryError) as error:
            crowded = isinstance(error, torch.OutOfMemoryError) and self.engine.concurrent_trainings != 1
            if self._graph_required or crowded:
                raise
            # Its words alone, for its frames hold the attempt's memory; torch has pages to say about lack of memory.
            return shorten(str(error), 160)
        return None

    def _compute(self, rows: Tensor) -> None:
        """One update on the training examples ``rows``: work of the device alone, which waits for nothing."""
        one_pass = self.engine.ghosts is GhostPasses.batched
        way = plan_passes(
            rows, self._batch, self._model, self._network, self._perturb, one_pass=one_pass, share=self._ranks.shard
        )
        pieces = (self._examples.gather(part) for part in way.parts)
        add_up = self._shared.begin(way.own, way.count)
        with precision_context(self._precision, self._device):
            self._now.sums += update(
                way.network,
                self._optimizer,
                pieces,
                way.count,
                way.perturb,
                clip_norm=self._settings.clip_norm,
                ghosts=way.ghosts,
                add_up=add_up,
                measure=self._perturb.measure,
            )

    def _open_epoch(self) -> Tensor:
        """Get ready for the epoch; returns the order of its examples."""
        now = self._now
        if self._settings.reset_every_epoch and now.step == 0:
            self._renew_optimizer()
        self._model.train()
        self._examples.set_epoch(now.epoch)
        order = torch.randperm(len(self._examples), generator=make_generator(self._seed, "order", now.epoch))
        own = [self._own(rows) for rows in torch.split(order, self._batch.examples_per_update)]
        taken = self._examples.prefetch(torch.cat(own), sum(map(len, own[: now.step])))
        return order.to(taken.device)

    def _renew_optimizer(self) -> None:
        if self._graphed:  # a graph goes on with the state that it has seen
            for tensors in self._optimizer_state().values():
                for tensor in tensors:
                    tensor.zero_()
        else:
            self._optimizer, self._lr = self._settings.build(list(self._model.parameters())), math.nan

    def _own(self, rows: Tensor) -> Tensor:
        """Those of an update's ``rows`` that this rank takes."""
        if self._ranks.size == 1:
            return rows
        cut = self._batch.split(rows)
        return torch.cat([rows[:0], *cut[self._ranks.shard(len(cut))]])

    def _set_lr(self, epoch: float) -> None:
        lr = self._settings.lr * self._schedule.lr_factor(epoch, self._batch)
        if lr == self._lr:
            return
        self._lr = lr
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _close_epoch(self) -> None:
        """Measure the epoch that ended, keep its weights if they are the best, and begin the next one."""
        now = self._now
        with precision_context(self._precision, self._device):
            batches = self._test_split.batches(eval_batch_size(self._device))
            batches = replace(batches, which=self._ranks.shard(len(batches)))
            measured = evaluate(self._model, batches, lambda sums: self._ranks.all_reduce([sums]))
        loss, right = (now.sums / len(self._examples)).tolist()
        numbers = (loss, right, measured.loss, measured.accuracy)
        names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        for name, value in zip(names, numbers, strict=True):
            now.curves[name].append(value)
        now.model = self._model.state_dict()
        if now.best_epoch == now.epoch:
            now.best = {name: tensor.clone() for name, tensor in now.model.items()}
        if self._perturb.trace:
            now.curvature.append(self._perturb.trace.pop_epoch())
        now.epoch, now.step = now.epoch + 1, 0
        now.sums.zero_()
        now.curves["seconds"].append(time.perf_counter() - self._since)
        self._since, now.elapsed = time.perf_counter(), 0.0

    def _optimizer_state(self) -> dict[str, list[Tensor]]:
        """The tensors of the optimizer's state by their names in it."""
        found = dict[str, list[Tensor]]()
        for state in self._optimizer.state.values():
            for name, tensor in state.items():
                found.setdefault(name, []).append(tensor)
        return found

    def _state(self) -> State:
        """Every tensor that an update changes, by role."""
        live, names = self._now.model, {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        buffers = dict(self._model.named_buffers())
        # One role for each name: Adam's count of updates would hide how far its moments are apart.
        optimizer = {f"the optimizer's {name}": tensors for name, tensors in self._optimizer_state().items()}
        return {
            "weights": [tensor for name, tensor in live.items() if name in names],
            "buffers": [buffers[name] for name in self._buffers],
            "loss and accuracy": [self._now.sums],
            "curvature": self._perturb.trace.sums if self._perturb.trace else [],
            **optimizer,
        }

    def _prepare_graphs(self) -> None:
        """Let what changes between updates lie on the device, where a graph finds it, and record from now on."""
        for group in self._optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=self._device)
            if "capturable" in group:
                group["capturable"] = self._device.type == "cuda"
        self._perturb.keep_strength_on_device()
        self._graphed = GraphedStep(self._device, self._perturb.generators)

    def _give_up_graphs(self) -> None:
        """Take back what `_prepare_graphs` did: from now on updates are as eager ones always are."""
        self._graphed = None
        for group in self._optimizer.param_groups:
            group.update(lr=self._lr, **({"capturable": False} if "capturable" in group else {}))
        self._perturb.keep_strength_on_host()
        self.engine = replace(self.engine, launch=Launch.eager)
