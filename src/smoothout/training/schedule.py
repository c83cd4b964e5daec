"""How long a training is, and its learning rate over the epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """``epochs`` epochs; the learning rate is multiplied by ``factor`` at the start of each epoch in ``drops``.

    Epochs count from 0. Without drops the learning rate is constant.
    """

    epochs: int
    drops: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, not {self.epochs}")
        if any(epoch < 1 for epoch in self.drops):
            raise ValueError(f"drops: must be epochs from 1 on, not {list(self.drops)}")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: must be a finite number above 0, not {self.factor}")

    def simplified(self) -> Schedule:
        """The plainest settings with the same outcome: drops in order, without those that are never reached."""
        drops = tuple(sorted(epoch for epoch in self.drops if epoch < self.epochs))
        return Schedule(self.epochs, drops, self.factor) if drops else Schedule(self.epochs)

    def scaled(self, share: float) -> Schedule:
        """A schedule of the same shape whose epochs and drops are multiplied by ``share`` (at least one epoch)."""
        epochs, *drops = (max(1, round(share * epoch)) for epoch in (self.epochs, *self.drops))
        return replace(self, epochs=epochs, drops=tuple(drops))

    def lr_factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by in ``epoch``."""
        return float(self.factor ** sum(epoch >= drop for drop in self.drops))
