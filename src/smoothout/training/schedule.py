"""How long a training is, and its learning rate over the epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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

    Epochs count from 0. At the start of each epoch in ``drops`` the learning rate is multiplied by ``factor``; without
    drops it is constant.

    Args:
        epochs: of the training.
        drops: where the learning rate drops.
        factor: what it is multiplied by there.
        lr_scaling: with sqrt or linear, the whole course is multiplied by (examples an update / ``lr_reference``) to
            the power 1/2 or 1; the batch multiplier counts.
        lr_reference: the batch that the learning rate is meant for; None is, as in the released program, the ghost
            batch, or without ghost batches one batch, so that then the multiplier alone scales.
        warm_up: epochs in which the learning rate rises, update by update and in a straight line, from the unscaled one
            to the scaled one (Goyal et al. 2017, Sec. 2.2); no published row has it.
    """

    epochs: int
    drops: tuple[int, ...] = ()
    factor: float = 0.1
    lr_scaling: LrScaling = LrScaling.none
    lr_reference: int | None = None
    warm_up: int = 0

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, not {self.epochs}")
        if any(epoch < 1 for epoch in self.drops):
            raise ValueError(f"drops: must be epochs from 1 on, not {list(self.drops)}")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: must be a finite number above 0, not {self.factor}")
        if self.lr_reference is not None and self.lr_reference < 1:
            raise ValueError(f"lr_reference: must be null (the ghost batch) or at least 1, not {self.lr_reference}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up: must be a number of epochs >= 0, not {self.warm_up}")
        if self.warm_up and self.lr_scaling is LrScaling.none:
            raise ValueError("warm_up: rises to the scaled learning rate; it needs lr_scaling=sqrt or linear")

    def canonicalized(self) -> Schedule:
        """The plainest settings with the same outcome: drops in order, without those that are never reached."""
        drops = tuple(sorted(epoch for epoch in self.drops if epoch < self.epochs))
        plain = replace(self, drops=drops, factor=self.factor if drops else Schedule.factor)
        return plain.unscaled() if self.lr_scaling is LrScaling.none else plain

    def unscaled(self) -> Schedule:
        """The same without learning-rate scaling."""
        return replace(self, lr_scaling=LrScaling.none, lr_reference=None, warm_up=0)

    def scaled(self, share: float) -> Schedule:
        """A schedule of the same shape: epochs, drops and warm-up multiplied by ``share`` (each at least one epoch)."""
        epochs, *drops = (max(1, round(share * epoch)) for epoch in (self.epochs, *self.drops))
        warm_up = max(1, round(share * self.warm_up)) if self.warm_up else 0
        return replace(self, epochs=epochs, drops=tuple(drops), warm_up=warm_up)

    def lr_scale(self, batch: Batch) -> float:
        """What the learning rate is multiplied by for the sake of ``batch``."""
        if self.lr_scaling is LrScaling.none:
            return 1.0
        ratio = batch.examples_per_update / (self.lr_reference or batch.ghost or batch.size)
        return ratio if self.lr_scaling is LrScaling.linear else math.sqrt(ratio)

    def lr_factor(self, epoch: float, batch: Batch) -> float:
        """What the learning rate is multiplied by ``epoch`` epochs after the start, a part of one included."""
        drop, scale = float(self.factor ** sum(epoch >= drop for drop in self.drops)), self.lr_scale(batch)
        risen = min(1.0, epoch / self.warm_up) if self.warm_up else 1.0
        return drop * (scale if risen == 1 else 1 + (scale - 1) * risen)
