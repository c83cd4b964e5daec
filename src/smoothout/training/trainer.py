"""The loop around the update: epochs, order of examples, learning rate, evaluation, best weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
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
from smoothout.training.checkpoint import CURVES, TrainingState
from smoothout.training.cuda_graph import CaptureError, GraphedStep, State
from smoothout.training.distributed import GradientSync, ProcessGroup
from smoothout.training.dropout import DropoutRng
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.ghost_batches import PassPlan, buffer_use, own_rows, plan_passes, statistics_batches
from smoothout.training.live_optimizer import LiveOptimizer
from smoothout.training.methods.base import Method, TrainingPlan
from smoothout.training.optimizers import Optimizer
from smoothout.training.schedule import Schedule
from smoothout.training.update import update


class Trainer:
    """One training of ``model``, in place: iterate over it to train, update by update.

        trainer = Trainer(model, train_split, test_split, optimizer=Adam(1e-3), schedule=Schedule(200), ...)
        for state in trainer:
            ...  # state.epoch, state.step, state.curves; trainer.state() can be saved, and resumed

    Every random number is drawn from a generator seeded with ``seed`` and a purpose (see `common.rng`), so a resumed
    training repeats an uninterrupted one. On a CPU with the same threads and versions the results are bitwise equal.
    Dropout layers draw from torch's global generator, which is seeded again for every ghost batch.

    A loss that is not finite at the end of an epoch ends the training. If an update cannot be captured as a CUDA graph,
    updates run eagerly from then on, with one warning.

    Args:
        model: fresh, on the splits' device; ``resume`` replaces its weights.
        train_split: shuffled in every epoch; a smaller last batch is used too.
        test_split: evaluated after every epoch in evaluation mode with clean weights.
        optimizer: settings of the optimizer, with the initial learning rate.
        schedule: number of epochs, and the learning rate over time relative to the initial one.
        batch: how many examples an update sees, and in which ghost batches.
        method: how the gradient is computed: with SmoothOut's noise, SAM, or as usual.
        seed: seed of all random numbers except the initial weights, which come with ``model``.
        precision: number format of passes: "float32", "tf32" or "bfloat16" (autocast; weights stay in float32).
        augmentation: augmentation of the training images, of the type that the split takes, or None.
        engine: how updates run on the hardware; ``auto`` is resolved here.
        resume: state of an earlier training with the same arguments, from `state`; None starts from the model's
            weights.
        ranks: the processes that share the training; each creates a `Trainer` with the same arguments.
        after_epoch: called at the end of every epoch.

    Raises:
        ValueError: if the device or the model does not support what ``engine`` or ``method`` requires; in the first
            update, if the model draws random numbers outside torch.nn's dropout modules (functional dropout, an LSTM).
        CaptureError: in an update, if ``engine.launch`` is graph and the update cannot be captured.
        torch.OutOfMemoryError: in an update. If only a capture runs out of memory and no other training shares the
            device (``engine.concurrent_trainings`` is 1), ``launch=auto`` continues eagerly instead.
    """

    def __init__(
        self,
        model: nn.Module,
        train_split: Split,
        test_split: Split,
        *,
        optimizer: Optimizer,
        schedule: Schedule,
        batch: Batch,
        method: Method,
        seed: int,
        precision: Precision = Precision.float32,
        augmentation: Any = None,
        engine: Engine | None = None,
        resume: TrainingState | None = None,
        ranks: ProcessGroup | None = None,
        after_epoch: Callable[[TrainingState], None] = lambda state: None,
    ) -> None:
        self._device, self._precision = train_split.labels.device, parse_enum(Precision, "precision", precision)
        self._config, self._schedule, self._batch, self._seed = optimizer, schedule, batch, seed
        self._ranks, self._after_epoch = ranks or ProcessGroup(), after_epoch
        self._updates = batch.updates_per_epoch(len(train_split))

        # Set the memory format before building the method, because its buffers have the weights' strides.
        engine = engine or Engine()
        memory_format = engine.resolve_memory_format(self._device, self._precision)
        self._model = memory_format.applied_to(model)
        updates, ghosts = schedule.epochs * self._updates, batch.ghosts_per_update
        unaugmented = partial(statistics_batches, train_split, batch)
        plan = TrainingPlan(seed, updates, self._updates, ghosts, self._ranks.size, self._device, unaugmented)
        self._estimator = method.build(model, plan)
        self._dropout = DropoutRng(model, seed, self._device)
        self._sync = GradientSync(self._ranks, model, self._estimator)

        # Choose how updates run, within what method, optimizer, data and processes allow.
        resident, drops = train_split.resident, self._dropout.drops
        if self._estimator.other_examples and not resident:
            raise ValueError(f"method: {method.slug} needs images that are kept in memory, not an image folder")
        # Dropout cannot be seeded again within a graph.
        seedable = not drops or ghosts == self._estimator.forward_passes == self._estimator.steps_per_batch == 1
        capturable = method.capturable and optimizer.capturable and resident and self._ranks.size == 1 and seedable
        one_pass = self._estimator.shares_weights and resident and batch.ghosts_per_batch > 1 and not drops
        self.engine = engine.resolved(self._device, self._precision, capturable, one_pass)
        train_split = train_split.to_memory_format(memory_format.memory_format)
        self._test_split = test_split.to_memory_format(memory_format.memory_format)
        if self.engine.ghosts is GhostPasses.batched or self._ranks.size > 1:
            self._try_pass(train_split.gather(slice(1))[0])
        self._examples = train_split.training_view(augmentation, seed)

        # The state that changes from update to update, fresh or resumed.
        self._state = resume or TrainingState({}, {}, {}, torch.zeros(2, dtype=torch.float64, device=self._device))
        self._optimizer = LiveOptimizer(optimizer, model, self._device)
        self._estimator.use_optimizer(self._optimizer.torch)
        if resume:
            self._load(resume)
        self._buffers = [name for name, _ in model.named_buffers()]  # a forward pass may add others
        self._state.model = model.state_dict()  # live tensors, up to date except for buffers that are replaced

        # Compiling and capturing come last, because they keep references to tensors.
        eager_masks: dict[str, Any] = {"fallback_random": True}  # a compiled network draws the same dropout masks
        compiled = torch.compile(model, dynamic=False, options=eager_masks) if self.engine.compile else None
        self._network: Any = compiled or model
        self._graphed: GraphedStep | None = None
        self._graph_required = engine.launch is Launch.graph
        if self.engine.launch is Launch.graph:
            self._prepare_graphs()
        self._since = time.perf_counter() - self._state.elapsed

    def _try_pass(self, example: Tensor) -> None:
        """Check on trial passes whether ghost batches can share a pass, and be split over processes."""
        with precision_context(self._precision, self._device):
            if self.engine.ghosts is GhostPasses.batched:
                use = buffer_use(self._model, example, ghosts=2)
                if not (use and use.fits_one_pass):
                    self.engine = replace(self.engine, ghosts=GhostPasses.sequential)
            # A pass by itself, because ghost batches that cannot share a pass can still be split.
            if self._ranks.size > 1 and (use := buffer_use(self._model, example)):
                use.check_fits_processes()

    def _load(self, resume: TrainingState) -> None:
        """Load the weights and the state of the optimizer and of the method."""
        self._model.load_state_dict(resume.model)
        if self._estimator.trace and resume.trace:
            self._estimator.trace.load_state_dict(resume.trace)
        tensors = self._estimator.tensors()
        if tensors.keys() != resume.method.keys():
            raise ValueError(
                f"method: its state is {sorted(tensors)} before the first update, and {sorted(resume.method)} in the"
                " checkpoint: tensors() must return the same names from build() on"
            )
        for name, tensor in tensors.items():
            tensor.copy_(resume.method[name])
        if resume.optimizer:
            self._optimizer.load_state_dict(resume.optimizer)

    def __iter__(self) -> Iterator[TrainingState]:
        """Train to the end; yields the live state after every update. A new iterator continues after the last one."""
        return self.until(self._schedule.epochs)

    def until(self, epochs: int) -> Iterator[TrainingState]:
        """Iterate until ``epochs`` epochs are complete; later iterators continue from there."""
        state, size = self._state, self._batch.examples_per_update
        while state.epoch < epochs and not state.diverged:
            order = self._begin_epoch()
            while state.step < self._updates:
                number = state.epoch * self._updates + state.step
                self._estimator.begin_update(number)
                self._dropout.begin_update(number)
                self._optimizer.scale_lr(
                    self._schedule.lr_factor(state.epoch + state.step / self._updates, self._batch)
                )
                with self._dropout.checked(), self._dropout.entered():
                    self._run_update(order[state.step * size : (state.step + 1) * size])
                self._estimator.after_update()
                state.step += 1
                yield state
            self._end_epoch()
        if state.epoch < self._schedule.epochs and not state.diverged:
            return
        with precision_context(self._precision, self._device):
            self._estimator.finish()
        self._graphed = None  # graphs and gradients hold memory that is no longer needed
        self._optimizer.torch.zero_grad(set_to_none=True)

    def run(self) -> TrainingState:
        """Train to the end; returns the last state, with the weights of the best test epoch in ``best``."""
        for _ in self:
            pass
        return self._state

    def state(self) -> TrainingState:
        """The live state, ready to be saved."""
        state, trace = self._state, self._estimator.trace
        state.model = self._model.state_dict()
        state.optimizer, state.elapsed = self._optimizer.state_dict(), time.perf_counter() - self._since
        state.trace, state.method = trace.state_dict() if trace else {}, dict(self._estimator.tensors())
        return state

    # One update

    def _run_update(self, rows: Tensor) -> None:
        """One update on the training examples ``rows``, replayed or eager."""
        if self._graphed:
            try:
                self._graphed(self._run_eagerly, rows, self._changed_tensors, self._estimator.variant)
            except (CaptureError, torch.OutOfMemoryError) as error:  # nothing has changed
                crowded = isinstance(error, torch.OutOfMemoryError) and self.engine.concurrent_trainings != 1
                if self._graph_required or crowded:
                    raise
                failure = shorten(str(error), 160)  # torch's message for lack of memory is long
            else:
                return
            # Outside the handler, because the error's frames keep the attempt's memory alive.
            warnings.warn(f"no CUDA graph of this update ({failure}); it runs eagerly", stacklevel=2)
            self._give_up_graphs()
        self._run_eagerly(rows)

    def _run_eagerly(self, rows: Tensor) -> None:
        """One update on the training examples ``rows``, without waiting for the device."""
        one_pass = self.engine.ghosts is GhostPasses.batched
        plan = plan_passes(rows, self._batch, self._model, self._network, one_pass=one_pass, shard=self._ranks.shard)
        batches: Iterable[Sequence[Tensor]] = map(self._gather, plan.passes)
        if self._estimator.steps_per_batch > 1:
            batches = list(batches)  # read once: image folders prefetch
        with precision_context(self._precision, self._device):
            for step in range(self._estimator.steps_per_batch):
                if step:
                    self._dropout.seed_ghost(0)
                sums = self._step(plan, batches)
                if step == 0:  # loss and accuracy are recorded at the weights before the batch
                    self._state.sums += sums

    def _gather(self, rows: Tensor) -> list[Tensor]:
        """Images and labels of ``rows``, (n,); of (n, 2) also those of the other examples."""
        return list(chain.from_iterable(map(self._examples.gather, rows.view(len(rows), -1).unbind(1))))

    def _step(self, plan: PassPlan, batches: Iterable[Sequence[Tensor]]) -> Tensor:
        """One optimizer step; returns the result of `update`."""
        return update(
            plan.network,
            self._optimizer.torch,
            batches,
            plan.num_ghosts,
            self._estimator.backward,
            first=plan.shard.start,
            ghosts_per_pass=plan.ghosts_per_pass,
            clip_norm=self._config.clip_norm,
            seed_dropout=self._dropout.seed_ghost,
            all_reduce=self._sync.begin(plan.shard, plan.num_ghosts),
            before_step=self._estimator.before_step,
        )

    # Epochs

    def _begin_epoch(self) -> Tensor:
        """Prepare the epoch; returns the order of its examples, (n,), or (n, 2) with a second order for the method."""
        state = self._state
        if self._config.reset_every_epoch and state.step == 0:
            self._optimizer.reset()
            self._estimator.use_optimizer(self._optimizer.torch)
        self._model.train()
        self._examples.set_epoch(state.epoch)
        order = torch.randperm(len(self._examples), generator=make_generator(self._seed, "order", state.epoch))

        # Image folders prefetch the examples of this process, from the next update on.
        all_rows = torch.split(order, self._batch.examples_per_update)
        updates = [own_rows(rows, self._batch, self._ranks.shard) for rows in all_rows]
        prefetched = self._examples.prefetch(torch.cat(updates), sum(map(len, updates[: state.step])))
        order = order.to(prefetched.device)
        if not self._estimator.other_examples:
            return order
        others = torch.randperm(len(order), generator=make_generator(self._seed, "other order", state.epoch))
        return torch.stack([order, others.to(order.device)], dim=1)

    def _end_epoch(self) -> None:
        """Evaluate the epoch that ended, keep its weights if they are the best, and move to the next one."""
        state = self._state
        with precision_context(self._precision, self._device), self._estimator.evaluation_weights():
            batches = self._test_split.batches(eval_batch_size(self._device))
            batches = replace(batches, which=self._ranks.shard(len(batches)))
            test = evaluate(self._model, batches, lambda sums: self._ranks.all_reduce([sums]))
            numbers = [*(state.sums / len(self._examples)).tolist(), test.loss, test.accuracy]
            for name, value in zip(CURVES, numbers, strict=False):  # the last curve, seconds, follows below
                state.curves[name].append(value)
            if state.best_epoch == state.epoch:
                state.best = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        state.model = self._model.state_dict()
        if self._estimator.trace:
            state.curvature.append(self._estimator.trace.pop_epoch())

        state.epoch, state.step = state.epoch + 1, 0
        state.sums.zero_()
        state.curves["seconds"].append(time.perf_counter() - self._since)
        self._since, state.elapsed = time.perf_counter(), 0.0
        self._after_epoch(state)

    # CUDA graphs

    def _changed_tensors(self) -> State:
        """Every tensor that an update changes, by role."""
        buffers = dict(self._model.named_buffers())
        # One role per name: Adam's step count would dominate the distance between its moments.
        optimizer = {f"the optimizer's {name}": tensors for name, tensors in self._optimizer.tensors().items()}
        return {
            "weights": [parameter.detach() for parameter in self._model.parameters()],
            "buffers": [buffers[name] for name in self._buffers],
            "loss and accuracy": [self._state.sums],
            "curvature": self._estimator.trace.sums if self._estimator.trace else [],
            "method": list(self._estimator.tensors().values()),
            **optimizer,
        }

    def _prepare_graphs(self) -> None:
        """Move numbers that change between updates to the device, where graphs read them, and enable capturing."""
        self._optimizer.keep_numbers_on_device()
        self._estimator.keep_numbers_on_device()
        self._graphed = GraphedStep(self._device, [*self._estimator.generators, *self._dropout.generators])

    def _give_up_graphs(self) -> None:
        """Undo `_prepare_graphs`: from now on updates run eagerly."""
        self._graphed = None
        self._optimizer.keep_numbers_on_host()
        self._estimator.keep_numbers_on_host()
        self.engine = replace(self.engine, launch=Launch.eager)
