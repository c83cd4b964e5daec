"""The performance model: rings walked message by message, closed limits, inverse of its times, Keskar's example."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smoothout.analysis.performance_model import MESSAGES, Worker, break_even, fit_worker, ring_all_reduce

WORKER = Worker(ghost_seconds=0.5, update_seconds=0.1, gradient_bytes=8e6, bandwidth=1e9, latency=1e-4)
positive = st.floats(1e-6, 1e6)


def walked(chunks: int, workers: int) -> tuple[list[list[int]], int]:
    """What every worker holds of each chunk after a ring's messages, by whom it was added up, and how many there were.

    In round r worker w hands chunk (w - r) mod p to the next one, which adds it up; after p - 1 rounds each chunk is
    complete somewhere, and p - 1 more hand it on.
    """
    held = [[{w} for _ in range(chunks)] for w in range(workers)]
    rounds = 0
    for second in (False, True):
        for r in range(workers - 1):
            sent = [(w, (w + second - r) % workers) for w in range(workers)]
            parcels = [(w, chunk, set(held[w][chunk])) for w, chunk in sent]
            for w, chunk, parcel in parcels:
                target = held[(w + 1) % workers]
                target[chunk] = parcel if second else target[chunk] | parcel
            rounds += 1
    return [[len(chunk) for chunk in worker] for worker in held], rounds


@pytest.mark.parametrize("workers", [2, 3, 5, 8])
def test_a_ring_adds_up_everything_in_as_many_messages_as_are_counted(workers: int) -> None:
    held, rounds = walked(workers, workers)
    assert held == [[workers] * workers] * workers
    assert ring_all_reduce(0.0, workers, 1.0, latency=1.0) == rounds
    assert ring_all_reduce(7.0 * workers, workers, 7.0, latency=0.0) == pytest.approx(rounds)


def test_an_update_is_as_long_as_the_worker_with_most_ghost_batches_takes() -> None:
    messages = 2 * 3 * (MESSAGES * 1e-4 + 8e6 / 4 / 1e9)
    assert WORKER.update(10, 4) == pytest.approx(3 * 0.5 + 0.1 + messages)
    assert WORKER.update(4, 4) - WORKER.update(1, 4) == pytest.approx(0)


@given(st.integers(1, 64), st.integers(1, 1024))
def test_workers_never_scale_better_than_perfectly(ghosts: int, workers: int) -> None:
    assert 0 < WORKER.efficiency(ghosts, workers) <= 1 + 1e-12


def test_without_messages_and_overhead_scaling_is_perfect_while_there_are_ghost_batches() -> None:
    free = Worker(0.5, 0.0, 8e6, math.inf, 0.0)
    assert [free.efficiency(16, p) for p in (1, 2, 4, 16)] == [1.0] * 4
    assert free.efficiency(16, 32) == 0.5


@given(st.builds(Worker, positive, st.floats(0, 1e3), positive, positive, positive), st.integers(1, 50))
def test_a_worker_is_told_from_the_times_that_it_would_take(wanted: Worker, pairs: int) -> None:
    size = wanted.gradient_bytes
    message, empty = (ring_all_reduce(each, 2, wanted.bandwidth, wanted.latency) for each in (size, 0.0))
    whole, half = wanted.update(2 * pairs, 1), wanted.update(pairs, 1)
    assume(message - empty > 1e-3 * message and whole - half > 1e-3 * whole)  # else lost in rounding
    found = fit_worker(whole, half, 2 * pairs, size=size, message=message, empty_message=empty)
    assert found.ghost_seconds == pytest.approx(wanted.ghost_seconds, rel=1e-6)
    assert found.update_seconds == pytest.approx(wanted.update_seconds, rel=1e-6, abs=1e-6 * whole)
    assert found.bandwidth == pytest.approx(wanted.bandwidth, rel=1e-6)
    assert found.latency == pytest.approx(wanted.latency, rel=1e-6)


def test_keskars_example() -> None:
    """f_s(P) = 0.2 and B_s / B_l = 0.1: at most half as many iterations."""
    assert break_even(256, 2560, 0.2) == pytest.approx(0.5)
