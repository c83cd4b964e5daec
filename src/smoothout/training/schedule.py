"""How long a training is, and its learning rate over the epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from smoothout.common.enums import coerce_enum_fields
from smoothout.training.batch import Batch


class LrScaling(StrEnum):
    """How the learning rate grows with the batch: not at all, as its square root (Hoffer et al.), or as it is."""

    none = "none"
    sqrt = "sqrt"
    linear = "linear"


@dataclass(frozen=True)
class Schedule:
    """[Hoffer 2017, scaling] How long a training is, and the course of its learning rate.

    Epochs count from 0. At the start of each epoch in ``milestones`` the learning rate is multiplied by ``gamma``;
    without drops it is constant.

    Args:
        epochs: of the training.
        milestones: where the learning rate drops.
        gamma: what it is multiplied by there.
        lr_scaling: with sqrt or linear, the whole course is multiplied by (examples an update / ``base_batch_size``) to
            the power 1/2 or 1; the batch multiplier counts.
        base_batch_size: the batch that the learning rate is meant for; None is, as in the released program, the ghost
            batch, or without ghost batches one batch, so that then the multiplier alone scales.
        warmup_epochs: epochs in which the learning rate rises, update by update and in a straight line, from the
            unscaled one to the scaled one (Goyal et al. 2017, Sec. 2.2); no published row has it.
    """

    epochs: int
    milestones: tuple[int, ...] = field(default=(), metadata={"recorded_as": "drops"})
    gamma: float = field(default=0.1, metadata={"recorded_as": "factor"})
    lr_scaling: LrScaling = LrScaling.none
    base_batch_size: int | None = field(default=None, metadata={"recorded_as": "lr_reference"})
    warmup_epochs: int = field(default=0, metadata={"recorded_as": "warm_up"})

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, not {self.epochs}")
        if any(epoch < 1 for epoch in self.milestones):
            raise ValueError(f"milestones: must be epochs from 1 on, not {list(self.milestones)}")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"gamma: must be a finite number above 0, not {self.gamma}")
        if self.base_batch_size is not None and self.base_batch_size < 1:
            raise ValueError(
                f"base_batch_size: must be null (the ghost batch) or at least 1, not {self.base_batch_size}"
            )
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs: must be a number of epochs >= 0, not {self.warmup_epochs}")
        if self.warmup_epochs and self.lr_scaling is LrScaling.none:
            raise ValueError("warmup_epochs: rises to the scaled learning rate; it needs lr_scaling=sqrt or linear")

    def canonicalized(self) -> Schedule:
        """The plainest settings with the same outcome: drops in order, without those that are never reached."""
        drops = tuple(sorted(epoch for epoch in self.milestones if epoch < self.epochs))
        plain = replace(self, milestones=drops, gamma=self.gamma if drops else Schedule.gamma)
        return plain.unscaled() if self.lr_scaling is LrScaling.none else plain

    def unscaled(self) -> Schedule:
        """The same without learning-rate scaling."""
        return replace(self, lr_scaling=LrScaling.none, base_batch_size=None, warmup_epochs=0)

    def scaled(self, share: float) -> Schedule:
        """A schedule of the same shape: epochs, drops and warm-up multiplied by ``share`` (each at least one epoch)."""
        epochs, *drops = (max(1, round(share * epoch)) for epoch in (self.epochs, *self.milestones))
        warmup_epochs = max(1, round(share * self.warmup_epochs)) if self.warmup_epochs else 0
        return replace(self, epochs=epochs, milestones=tuple(drops), warmup_epochs=warmup_epochs)

    def lr_scale(self, batch: Batch) -> float:
        """What the learning rate is multiplied by for the sake of ``batch``."""
        if self.lr_scaling is LrScaling.none:
            return 1.0
        ratio = batch.examples_per_update / (self.base_batch_size or batch.ghost or batch.size)
        return ratio if self.lr_scaling is LrScaling.linear else math.sqrt(ratio)

    def lr_factor(self, epoch: float, batch: Batch) -> float:
        """What the learning rate is multiplied by ``epoch`` epochs after the start, a part of one included."""
        drop, scale = float(self.gamma ** sum(epoch >= drop for drop in self.milestones)), self.lr_scale(batch)
        risen = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return drop * (scale if risen == 1 else 1 + (scale - 1) * risen)
