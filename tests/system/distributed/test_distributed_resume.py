"""Several processes resume one another, stop together and end together."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributed_cases import CASES, CURVES, assert_close, training
from helpers.process_group import Crew

from smoothout.common import interrupts
from smoothout.common.errors import DistributedAbort
from smoothout.common.interrupts import Interrupted
from smoothout.training import checkpoint
from smoothout.training.distributed import EXCHANGE_SECONDS, ProcessGroup

DIGEST = "c3" * 32


def part_of_a_run(ranks: ProcessGroup, path: Path, updates: int) -> None:
    """Resume from the checkpoint at ``path``, if it exists, and leave one after this many updates or at the end."""
    resume = checkpoint.load(path, DIGEST) if path.exists() else None
    run = training(ranks, **CASES["noise of their own"], resume=resume)
    for _ in islice(run, updates):
        pass
    ranks.all_reduce([torch.zeros(1)])  # nobody writes before all have read
    if ranks.rank == 0:
        checkpoint.save(path, run.state(), DIGEST)


def agreed(ranks: ProcessGroup, asked: int) -> tuple[int, int]:
    """What all agree upon where rank 1 alone was sent the signal ``asked``; and what then waits here."""
    with suppress(Interrupted), interrupts.defer_signals():
        if asked and ranks.rank == 1:
            interrupts.set_pending_signal(asked)
        found = ranks.agree_to_stop(), interrupts.pending_signal()
    return found


def test_a_checkpoint_of_two_processes_is_gone_on_with_by_one_and_back(two: Crew, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    two(part_of_a_run, path, 3)
    assert checkpoint.load(path, DIGEST).step == 3
    part_of_a_run(ProcessGroup(), path, 2)
    assert (checkpoint.load(path, DIGEST).epoch, checkpoint.load(path, DIGEST).step) == (1, 1)
    two(part_of_a_run, path, 99)
    found, wanted = checkpoint.load(path, DIGEST), training(ProcessGroup(), **CASES["noise of their own"]).run()
    assert_close(found.model, wanted.model, 1e-11)
    for curve in CURVES:
        assert found.curves[curve] == pytest.approx(wanted.curves[curve], rel=1e-6)  # measured in float32
    assert len(found.curves["test_loss"]) == 2


@pytest.mark.parametrize("asked", [0, 15])
def test_a_signal_that_one_rank_was_sent_counts_for_all(two: Crew, asked: int) -> None:
    assert two(agreed, asked) == [(asked, asked)] * 2


def stopped(ranks: ProcessGroup, sent: int) -> tuple[int, list[int], int]:
    """Updates of 8 ms on rank 0 and of 16 ms on rank 1, which is sent a signal after ``sent`` of them.

    Returns the update at which this rank stops, those after which ranks ask one another, and the rest of the wait.
    """
    seconds, asked = [0.0], list[int]()
    whole, clock = torch.distributed.all_reduce, time.monotonic

    def noted(*arguments: Any, **named: Any) -> Any:
        asked.append(update)
        return whole(*arguments, **named)

    torch.distributed.all_reduce, time.monotonic = noted, lambda: seconds[0]
    ranks._exchange_at_once()
    try:
        with suppress(Interrupted), interrupts.defer_signals():
            for update in range(10 * sent):
                seconds[0] += 2.0**-6 if ranks.rank else 2.0**-7
                if ranks.rank and update == sent:
                    interrupts.set_pending_signal(15)
                if ranks.agree_to_stop():
                    break
    finally:
        torch.distributed.all_reduce, time.monotonic = whole, clock
        ranks._exchange_at_once()
    return update, asked, interrupts.pending_signal()


def test_ranks_ask_one_another_every_half_second_by_the_slowest_clock_and_stop_at_the_same_update(two: Crew) -> None:
    first, second = two(stopped, 400)
    assert first == second
    update, asked, _ = first
    assert asked[-1] == update
    assert 400 <= update <= 400 + 32
    assert asked[:5] == [0, 2, 6, 14, 30]
    gaps = [later - earlier for earlier, later in pairwise(asked[5:])]
    assert EXCHANGE_SECONDS * 2**6 == 32
    assert set(gaps) == {32}


def test_one_process_asks_nobody() -> None:
    alone = ProcessGroup()
    tensor = torch.ones(3)
    alone.all_reduce([tensor])
    assert torch.equal(tensor, torch.ones(3))
    with alone.broadcast_work(lambda: pytest.fail("there is nobody to lead")):
        assert alone.agree_to_stop() == 0
    assert alone.may_report()
    alone.shutdown()


def test_an_order_reaches_the_other_ranks_until_they_are_dismissed(two: Crew) -> None:
    assert two(orders) == [None, [{"lr": 0.1, "weights": [1.0, 2.0]}, "again"]]


def orders(ranks: ProcessGroup) -> list[Any] | None:
    if ranks.rank:
        found = []
        for order in ranks.receive_work():
            found.append({**order, "weights": order["weights"].tolist()} if isinstance(order, dict) else order)
            if order == "again":
                return found
    for order in ({"lr": 0.1, "weights": torch.tensor([1.0, 2.0])}, "again"):
        with ranks.broadcast_work(lambda order=order: order):
            pass
    return None


def test_an_error_of_the_leader_ends_all_and_one_after_it_is_no_leader(two: Crew) -> None:
    assert two(failing) == ["EndedError from ValueError", "followed"]


def failing(ranks: ProcessGroup) -> str:
    if ranks.rank:
        next(iter(ranks.receive_work()))
        return "followed"
    try:
        with ranks.broadcast_work(lambda: "order"):
            raise ValueError
    except DistributedAbort as error:
        return f"EndedError from {type(error.__cause__).__name__}"
    return "nothing"
