"""The length of a training and its learning rate over the epochs. Importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import check_positive
from smoothout.training.batch import Batch


class LrScaling(StrEnum):
    """How the learning rate scales with the batch size: not at all, with its root (Hoffer et al.), or linearly."""

    none = "none"
    sqrt = "sqrt"
    linear = "linear"


@dataclass(frozen=True)
class Schedule:
    """[Hoffer 2017, scaling] The length of a training and its learning rate over time.

    Epochs count from 0. At the start of each epoch in ``milestones`` the learning rate is multiplied by ``gamma``;
    without milestones it is constant.

    Args:
        epochs: number of epochs.
        milestones: epochs at which the learning rate drops.
        gamma: factor of each drop.
        lr_scaling: with sqrt or linear, all learning rates are multiplied by (examples per update /
            ``base_batch_size``) to the power 1/2 or 1; the batch multiplier counts.
        base_batch_size: the batch size for which the learning rate was chosen. None is the ghost batch, as in the
            released program, or ``batch.size`` without ghost batches, so that only the multiplier scales.
        warmup_epochs: epochs in which the learning rate rises linearly, update by update, from the unscaled to the
            scaled one (Goyal et al. 2017, Sec. 2.2); no published row does so.
        keep_epochs: lengths of shorter trainings that are beginnings of this one; their checkpoints are saved on the
            way. Lengths that are not shorter have no effect. Not part of a record's identity.
    """

    epochs: int
    milestones: tuple[int, ...] = field(default=(), metadata={"recorded_as": "drops"})
    gamma: float = field(default=0.1, metadata={"recorded_as": "factor"})
    lr_scaling: LrScaling = LrScaling.none
    base_batch_size: int | None = field(default=None, metadata={"recorded_as": "lr_reference"})
    warmup_epochs: int = field(default=0, metadata={"recorded_as": "warm_up"})
    keep_epochs: tuple[int, ...] = field(default=(), metadata={"identity": False})

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, not {self.epochs}")
        if any(epoch < 1 for epoch in self.milestones):
            raise ValueError(f"milestones: must be epochs from 1 on, not {list(self.milestones)}")
        check_positive("gamma", self.gamma)
        if self.base_batch_size is not None and self.base_batch_size < 1:
            raise ValueError(
                f"base_batch_size: must be null (the ghost batch) or at least 1, not {self.base_batch_size}"
            )
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs: must be a number of epochs >= 0, not {self.warmup_epochs}")
        if any(epoch < 1 for epoch in self.keep_epochs):
            raise ValueError(f"keep_epochs: must be numbers of epochs from 1 on, not {list(self.keep_epochs)}")
        if self.warmup_epochs and self.lr_scaling is LrScaling.none:
            raise ValueError(
                "warmup_epochs: rises to a scaled learning rate; set lr_scaling=sqrt or linear, or warmup_epochs=0"
            )

    def canonicalized(self) -> Schedule:
        """The simplest settings with the same outcome: milestones in order, without those that are never reached."""
        milestones = tuple(sorted(epoch for epoch in self.milestones if epoch < self.epochs))
        plain = replace(self, milestones=milestones, gamma=self.gamma if milestones else Schedule.gamma)
        return plain.unscaled() if self.lr_scaling is LrScaling.none else plain

    def unscaled(self) -> Schedule:
        """The same schedule without learning-rate scaling."""
        return replace(self, lr_scaling=LrScaling.none, base_batch_size=None, warmup_epochs=0)

    def scaled(self, share: float) -> Schedule:
        """The same shape, with all numbers of epochs multiplied by ``share`` (each at least one epoch)."""

        def scale(epochs: int) -> int:
            return max(1, round(share * epochs))

        return replace(
            self,
            epochs=scale(self.epochs),
            milestones=tuple(map(scale, self.milestones)),
            warmup_epochs=scale(self.warmup_epochs) if self.warmup_epochs else 0,
            keep_epochs=tuple(dict.fromkeys(map(scale, self.keep_epochs))),
        )

    def beginnings(self) -> list[Schedule]:
        """The schedules of the shorter trainings that ``keep_epochs`` names."""
        return [replace(self, epochs=epochs, keep_epochs=()) for epochs in self.keep_epochs if epochs < self.epochs]

    def lr_scale(self, batch: Batch) -> float:
        """The factor of the learning rate for ``batch``."""
        if self.lr_scaling is LrScaling.none:
            return 1.0
        ratio = batch.examples_per_update / (self.base_batch_size or batch.ghost or batch.size)
        return ratio if self.lr_scaling is LrScaling.linear else math.sqrt(ratio)

    def lr_factor(self, epoch: float, batch: Batch) -> float:
        """The factor of the learning rate at ``epoch``, which may be fractional."""
        drop = float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))
        scale = self.lr_scale(batch)
        risen = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return drop * (scale if risen == 1 else 1 + (scale - 1) * risen)
