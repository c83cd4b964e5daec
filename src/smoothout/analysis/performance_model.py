"""Scale on paper: how long an update and an epoch take on p workers, from what was measured on one and two.

A worker is what a rank runs on: a core, a GPU. It takes its share of an update's ghost batches; then all add up their
gradients, round a ring; then each makes the same update. Nothing of this overlaps, as in `training.ranks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MESSAGES = 3  # an update: gradients with running averages, sums, and whether to stop


@dataclass(frozen=True)
class Worker:
    """What was measured of a worker and of the wire to the next.

    Attributes:
        ghost_seconds: noise, forward and backward pass of a ghost batch.
        update_seconds: what an update costs beside: clipping, optimizer, bookkeeping.
        gradient_bytes: what is added up over workers once an update.
        bandwidth: of the wire, bytes a second; ``latency``: of a message, seconds.
    """

    ghost_seconds: float
    update_seconds: float
    gradient_bytes: float
    bandwidth: float
    latency: float

    def update(self, ghosts: int, workers: int) -> float:
        """Seconds of an update of so many ghost batches: as long as the worker with most of them takes."""
        messages = ring_all_reduce(self.gradient_bytes, workers, self.bandwidth, MESSAGES * self.latency)
        return math.ceil(ghosts / workers) * self.ghost_seconds + self.update_seconds + messages

    def efficiency(self, ghosts: int, workers: int) -> float:
        """f(p): how many times as fast p workers are as one, over p."""
        return self.update(ghosts, 1) / (workers * self.update(ghosts, workers))


def ring_all_reduce(size: float, workers: int, bandwidth: float, latency: float) -> float:
    """[Patarasu 2009] Seconds in which p workers add up ``size`` bytes: 2 (p - 1) messages of size / p, one by one."""
    return 2 * (workers - 1) * (latency + size / workers / bandwidth)


def fit_worker(whole: float, half: float, ghosts: int, *, size: float, message: float, empty_message: float) -> Worker:
    """The worker whose update of ``ghosts`` ghost batches takes ``whole`` seconds, and of half as many
    ``half``.

    Two such workers add up ``size`` bytes in ``message`` seconds, and hardly anything in ``empty_message`` seconds.

    Raises:
        ValueError: where the larger of a pair did not take longer: nothing can be told from such times.
    """
    if not (whole > half > 0 and message > empty_message > 0):
        raise ValueError(f"seconds {whole}, {half} and {message}, {empty_message}: the first of each must be longer")
    ghost = (whole - half) / (ghosts - ghosts // 2)
    return Worker(ghost, max(0.0, whole - ghosts * ghost), size, size / (message - empty_message), empty_message / 2)


def break_even(small: int, large: int, efficiency: float) -> float:
    """[Keskar App. C] Iterations that the large batch may take for each one of the small batch, and be no slower.

    I_l / I_s < B_s / (B_l f_s(p)), for a large batch that scales perfectly; ``efficiency`` is f_s(p).
    """
    return small / (large * efficiency)
