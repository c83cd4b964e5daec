"""The interface between the trainer and a training method.

A method has two parts. `Method` is its settings, a frozen dataclass that a YAML in ``configs/method/`` names. The
settings build a `GradientEstimator` for one training of one model, which computes the gradient of each update. The
trainer calls it in this order:

    begin_update(update)
        backward(ghost_batch)   # once per pass: one ghost batch, or several that see the same weights
        skip(ghosts)            # the ghost batches that belong to other processes
    before_step()               # the gradient is complete; clipping and optimizer.step() follow
    ...                         # with several ``steps_per_batch``: from backward() again, on the same batch
    after_update()              # once per batch: the optimizer has moved the weights
    evaluation_weights()        # a context, after the last update of an epoch
    finish()                    # after the last epoch

Methods that fit this interface, without a change to the trainer:

- noise or a step away from w, and the gradient there (SmoothOut, LPF-SGD, SAM, ASAM): change the weights around
  ``ghost_batch.backward()``, once or several times;
- inner problems: several optimizer steps on each batch (``steps_per_batch``, as conservative training), or
  ``ghost_batch.gradient()`` as often as needed, once with ``record=True``, and a ``grad`` that the method sets itself
  (Entropy-SGD);
- adversarial inputs: replace ``ghost_batch.inputs`` before the backward pass;
- additional loss terms on the outputs: the ``regularizer`` of ``ghost_batch.backward()`` (stability training);
- steps along the optimizer's momentum (MSAM): ``use_optimizer()`` receives the optimizer;
- additional examples for every ghost batch (m-RWP): ``other_examples``;
- averages of weights (EMA, SWA): update them in ``after_update()``, return them from ``tensors()`` for checkpoints,
  evaluate them within ``evaluation_weights()``, and copy them into the model in ``finish()``.

The trainer handles the order of examples, learning rate, weight decay, clipping, dropout masks, BatchNorm's running
statistics, and sums over processes. README.md says what a method must decide about random numbers and processes.

This module imports no torch, so that settings can be read without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from smoothout.nn.curvature import RunningTrace
    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class TrainingPlan:
    """The information about a training that a method gets before the first update."""

    seed: int
    updates: int  # number of updates of the whole training
    updates_per_epoch: int  # the last, smaller update counts
    ghosts_per_update: int  # at most
    processes: int  # number of processes that share the ghost batches of an update
    device: torch.device
    training_batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] = tuple  # all training examples, not augmented


class GradientEstimator:
    """How a method computes the gradient of each update of one training. The defaults are plain training."""

    forward_passes: int = 1  # per ghost batch and step, with a backward pass or without
    statistics_passes: int = 1  # how many of them update BatchNorm's running statistics
    steps_per_batch: int = 1  # optimizer steps, each with a gradient on the same examples and dropout masks
    shares_weights: bool = True  # whether the ghost batches of a batch see the same weights and can share a pass
    generators: Sequence[torch.Generator] = ()  # all generators that an update uses; a CUDA graph advances them
    other_examples: bool = False  # whether `GhostBatch.others` holds as many examples, from a second order
    trace: RunningTrace | None = None  # estimate of the Hessian's trace, which the trainer saves and records

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive the optimizer of the following updates. Raises ValueError if the method does not work with it."""

    def begin_update(self, update: int) -> None:
        """Prepare ``update``, counted in batches from the start of the training. Runs outside a CUDA graph."""

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Add this ghost batch's part of the gradient to ``grad``; the weights must be restored afterwards."""
        ghost_batch.backward()

    def skip(self, ghosts: Iterable[int]) -> None:
        """Called with the indices of ghost batches that other processes handle."""

    def before_step(self) -> None:
        """Read or replace the gradient of a step, summed over ghost batches and processes."""

    def after_update(self) -> None:
        """Read the weights after the last step on a batch. Runs outside a CUDA graph."""

    @property
    def variant(self) -> Hashable:
        """A value that differs between updates that run different operations; each variant has its own CUDA graph."""
        return None

    def keep_numbers_on_device(self) -> None:
        """Keep numbers that change between updates in tensors, which a CUDA graph reads at every replay."""

    def keep_numbers_on_host(self) -> None:
        """Undo `keep_numbers_on_device`."""

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """The context in which an epoch's weights are evaluated and, if they are the best, saved."""
        return nullcontext()

    def finish(self) -> None:
        """Put the final weights into the model. A resumed training may call it again."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Other state that updates change in place, by name; checkpoints and the check of a CUDA graph use it."""
        return {}


class Method(ABC):
    """The settings of a method; a frozen dataclass derives from it and adds fields."""

    @property
    @abstractmethod
    def slug(self) -> str:
        """Name and strength for file names and tables, such as sam0.05; unique to these settings."""

    @abstractmethod
    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator for a training of ``model``. Raises ValueError if it cannot do what ``plan`` asks."""

    @property
    def numerics(self) -> int:
        """Part of a record's identity; raise it when a change of the code changes outcomes."""
        return 1

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold an update: nothing depends on host values, and addresses are fixed."""
        return True

    @property
    def depends_on_length(self) -> bool:
        """Whether an update depends on the number of updates of the whole training."""
        return False

    @property
    def needs_momentum(self) -> bool:
        """Whether an optimizer without momentum is refused."""
        return False

    def canonicalized(self) -> Method:
        """The simplest settings with the same outcome, which name the record."""
        return self

    @property
    def passes(self) -> float:
        """Gradients (a forward and a backward pass each) per training example and epoch.

        It is stored in records, used in time estimates, and equal for some rows of configs/table/family.yaml.
        Forward-only passes do not count: the one for running statistics that `PerturbedGradient` may add to each ghost
        batch, and that of `update_bn` over the training images. Their time is part of a record's seconds.
        """
        return 1

    def relative_strength(
        self, model: nn.Module, update: int, total: int, gradient: Callable[[], list[Tensor]] | None = None
    ) -> float | None:
        """The method's strength relative to ``model``'s weights at ``update`` of ``total``; None if it has none.

        ``gradient`` returns a batch's gradient at these weights, one tensor per trainable parameter.
        """
        return None
