"""Threads that train models of their own: blocks of one do not disturb steps and blocks of another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers.noise_cases import network
from torch.optim.optimizer import register_optimizer_step_pre_hook

from smoothout import SmoothOut
from smoothout.nn.watch import unwatched


def in_another_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def enter_and_leave() -> None:
    with SmoothOut(network(1), 0.1):
        pass


def test_a_step_goes_on_while_another_thread_enters_and_leaves_a_block() -> None:
    """In the middle of torch's walk through its hooks."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handles = [register_optimizer_step_pre_hook(lambda *_: in_another_thread(enter_and_leave)) for _ in range(2)]
    try:
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()


def test_a_step_is_refused_while_another_thread_holds_a_block_of_its_own() -> None:
    model, other = network(), network(1)
    optimizer, others = (torch.optim.SGD(m.parameters(), 0.1) for m in (model, other))
    with SmoothOut(model, 0.1):
        in_another_thread(others.step)
        for run in (optimizer.step, lambda: in_another_thread(optimizer.step)):  # autograd has threads of its own
            with pytest.raises(RuntimeError, match=r"optimizer.step\(\) belongs after the block"):
                run()
    in_another_thread(optimizer.step)


def test_what_is_written_inside_is_noticed_also_while_another_thread_swaps_weights() -> None:
    model = network()

    def write() -> None:
        with unwatched(model.parameters()), torch.no_grad():  # blocks are entered and left in the former
            model[0].weight.add_(1.0)

    with pytest.raises(RuntimeError, match="written or replaced within the block"), SmoothOut(model, 0.1):
        in_another_thread(write)


def test_a_block_may_be_left_in_another_thread() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    context = SmoothOut(model, 0.1)
    in_another_thread(context.__enter__)
    context.__exit__(None, None, None)
    assert all(map(torch.equal, model.parameters(), before))
    torch.optim.SGD(model.parameters(), 0.1).step()
