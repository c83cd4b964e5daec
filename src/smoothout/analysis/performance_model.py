"""A performance model of data parallelism: seconds per update and epoch on p workers, from measurements on one and two.

A worker is a core or a GPU that runs one process. Each update, it computes its share of the ghost batches, takes part
in a ring all-reduce of the gradients, and applies the same update as all others. These steps do not overlap, as in
`training.distributed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MESSAGES = 3  # per update: gradients with running statistics, sums, and whether to stop


@dataclass(frozen=True)
class Worker:
    """Measurements of a worker and of its connection to the next."""

    ghost_seconds: float  # noise, forward and backward pass of a ghost batch
    update_seconds: float  # the rest of an update: clipping, optimizer, bookkeeping
    gradient_bytes: float  # summed over workers once per update
    bandwidth: float  # of the connection, in bytes per second
    latency: float  # of a message, in seconds

    def update(self, ghosts: int, workers: int) -> float:
        """Seconds per update of ``ghosts`` ghost batches, set by the worker with the largest share."""
        messages = ring_all_reduce(self.gradient_bytes, workers, self.bandwidth, MESSAGES * self.latency)
        return math.ceil(ghosts / workers) * self.ghost_seconds + self.update_seconds + messages

    def efficiency(self, ghosts: int, workers: int) -> float:
        """f(p): the speedup of p workers over one, divided by p."""
        return self.update(ghosts, 1) / (workers * self.update(ghosts, workers))


def ring_all_reduce(size: float, workers: int, bandwidth: float, latency: float) -> float:
    """[Patarasu 2009] Seconds in which p workers sum ``size`` bytes: 2 (p - 1) messages of size / p in sequence."""
    return 2 * (workers - 1) * (latency + size / workers / bandwidth)


def fit_worker(whole: float, half: float, ghosts: int, *, size: float, message: float, empty_message: float) -> Worker:
    """The worker for an update time of ``whole`` seconds with ``ghosts`` ghost batches, and ``half`` with half as many.

    Two such workers sum ``size`` bytes in ``message`` seconds, and almost none in ``empty_message`` seconds. Raises
    ValueError unless ``whole`` > ``half`` and ``message`` > ``empty_message``, because the fit would be meaningless.
    """
    if not (whole > half > 0 and message > empty_message > 0):
        raise ValueError(
            f"seconds {whole}, {half} and {message}, {empty_message}: the first of each pair must be longer"
        )
    ghost = (whole - half) / (ghosts - ghosts // 2)
    return Worker(ghost, max(0.0, whole - ghosts * ghost), size, size / (message - empty_message), empty_message / 2)


def break_even(small: int, large: int, efficiency: float) -> float:
    """[Keskar App. C] Iterations of the large batch per iteration of the small batch at which both take equally long.

    I_l / I_s < B_s / (B_l f_s(p)), for a large batch that scales perfectly; ``efficiency`` is f_s(p).
    """
    return small / (large * efficiency)
