"""How the examples of one update are divided into batches and ghost batches. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """[Hoffer 2017, Alg. 1] The number of examples per update, and their division into ghost batches.

    Args:
        size: examples per batch.
        ghost: examples per ghost batch. BatchNorm normalizes each ghost batch by its own statistics (Hoffer et al.
            2017). None: no ghost batches. A batch is divided into size // ghost ghost batches, as in the released
            program; they are larger than ``ghost`` if it does not divide ``size``.
        multiplier: batches per update. Their gradients are averaged, as if they were one batch.
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
        """Return self. Raises ValueError if an update needs more than the ``examples`` training examples."""
        if self.examples_per_update > examples:
            times = f" x multiplier {self.multiplier}" if self.multiplier > 1 else ""
            raise ValueError(f"size: {self.size}{times} is more than the {examples} training examples in use")
        return self

    def canonicalized(self) -> Batch:
        """The simplest settings with the same outcome: ``ghost`` is None for one ghost batch per batch."""
        return self if self.ghosts_per_batch > 1 else replace(self, ghost=None)

    @property
    def examples_per_update(self) -> int:
        """Number of examples per update; the last update of an epoch may have fewer."""
        return self.size * self.multiplier

    @property
    def ghosts_per_batch(self) -> int:
        """Largest number of ghost batches per batch."""
        return 1 if self.ghost is None else self.size // self.ghost

    @property
    def examples_per_pass(self) -> int:
        """Nominal number of examples that pass the network together: ``ghost``, or ``size`` for one ghost batch."""
        return self.canonicalized().ghost or self.size

    @property
    def ghosts_per_update(self) -> int:
        """Largest number of ghost batches per update."""
        return self.ghosts_per_batch * self.multiplier

    def split(self, rows: Tensor) -> list[Tensor]:
        """Split an update's ``rows``, (n,), into ghost batches. A smaller last batch has as many of them."""
        return [ghost for batch in rows.split(self.size) for ghost in batch.chunk(self.ghosts_per_batch)]  # type: ignore[no-untyped-call]

    def smallest_ghost(self, examples: int) -> int:
        """Examples in the smallest ghost batch of an epoch of ``examples`` examples."""
        remainder = examples % self.size
        batches = {remainder or self.size, min(self.size, examples)}
        chunks = ((batch, -(-batch // self.ghosts_per_batch)) for batch in batches)
        return min(batch % chunk or chunk for batch, chunk in chunks)

    def updates_per_epoch(self, examples: int) -> int:
        """Number of updates in an epoch of ``examples`` examples, including a smaller last one."""
        return -(-examples // self.examples_per_update)
