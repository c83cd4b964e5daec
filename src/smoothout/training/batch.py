"""How the examples of one update are divided into batches and ghost batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """[Hoffer 2017, Alg. 1] How many examples an update sees, and in which pieces they go through the network.

    Args:
        size: examples an update.
        ghost: examples a ghost batch: each goes through the network by itself, so its BatchNorm statistics are its
            own (Hoffer et al. 2017); None is the whole batch at once. A batch is cut into size // ghost pieces, as in
            the released program, so they are larger than ``ghost`` where it does not divide ``size``.
        multiplier: batches an update: their gradients are added up, as if they were one batch of
            ``examples``.
    """

    size: int
    ghost: int | None = None
    multiplier: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: the batch must have at least 1 example, not {self.size}")
        if self.ghost is not None and not 1 <= self.ghost <= self.size:
            raise ValueError(f"ghost: must be null or between 1 and size = {self.size}, not {self.ghost}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier: must be a whole number >= 1, not {self.multiplier}")

    def check_fits(self, examples: int) -> Batch:
        """Itself; raises ValueError where an update sees more than all ``examples`` training examples."""
        if self.examples_per_update > examples:
            times = f" x multiplier {self.multiplier}" if self.multiplier > 1 else ""
            raise ValueError(f"size: {self.size}{times} is more than the {examples} training examples in use")
        return self

    def canonicalized(self) -> Batch:
        """The plainest settings with the same outcome: one ghost batch a batch is none."""
        return self if self.ghosts_per_batch > 1 else replace(self, ghost=None)

    @property
    def examples_per_update(self) -> int:
        """Examples an update."""
        return self.size * self.multiplier

    @property
    def ghosts_per_batch(self) -> int:
        """Ghost batches a batch, at most."""
        return 1 if self.ghost is None else self.size // self.ghost

    @property
    def ghosts_per_update(self) -> int:
        """Ghost batches an update, at most."""
        return self.ghosts_per_batch * self.multiplier

    def split(self, rows: Tensor) -> list[Tensor]:
        """The ghost batches of an update on ``rows``, (n,). A last, smaller batch is cut into as many smaller ones."""
        return [piece for batch in torch.split(rows, self.size) for piece in batch.chunk(self.ghosts_per_batch)]

    def smallest_ghost(self, examples: int) -> int:
        """Examples in the smallest ghost batch of an epoch of ``examples`` examples."""
        last = examples % self.examples_per_update or self.examples_per_update
        return min(len(piece) for n in {self.examples_per_update, last} for piece in self.split(torch.arange(n)))

    def updates_per_epoch(self, examples: int) -> int:
        """Updates an epoch of ``examples`` examples; the last, smaller one counts."""
        return -(-examples // self.examples_per_update)
