"""Methods of two passes under DistributedDataParallel: two processes get the gradients that one gets of the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from helpers.noise_cases import TWO_PASSES, examples, two_layers
from helpers.process_group import Crew
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from smoothout.nn.passes import Passes
from smoothout.training.distributed import ProcessGroup

Local = Callable[[], AbstractContextManager[object]]


def accumulated(method: Passes, model: nn.Module, rows: slice, local: Local = nullcontext) -> list[Tensor]:
    """The gradients after each of two batches and, after an update that sets them to None, of one more.

    ``local`` is a context for the first batch, whose gradients then stay each process's own.
    """
    inputs, labels = examples(24)
    found = []
    for index, (x, y) in enumerate(zip(inputs.double().split(8), labels.split(8), strict=True)):
        with local() if index == 0 else nullcontext():
            for block in method:
                with block:
                    F.cross_entropy(model(x[rows]), y[rows]).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if index or local is nullcontext:
            found.append(torch.cat([gradient.flatten().clone() for gradient in gradients]))
        if index == 1:
            with torch.no_grad():
                torch._foreach_sub_(list(model.parameters()), gradients)
            model.zero_grad(set_to_none=True)
    return found


def under_ddp(ranks: ProcessGroup, name: str, bucket_view: bool, no_sync: bool) -> list[Tensor]:
    model = DistributedDataParallel(two_layers(), gradient_as_bucket_view=bucket_view)
    local = model.no_sync if no_sync else nullcontext
    return accumulated(TWO_PASSES[name](model), model, slice(4 * ranks.rank, 4 * ranks.rank + 4), local)


@pytest.mark.parametrize("no_sync", [False, True])
@pytest.mark.parametrize("bucket_view", [False, True])
@pytest.mark.parametrize("name", TWO_PASSES)
def test_two_processes_get_the_gradients_of_one(two: Crew, name: str, bucket_view: bool, no_sync: bool) -> None:
    model = two_layers()
    wanted = accumulated(TWO_PASSES[name](model), model, slice(None))[int(no_sync) :]
    both = two(under_ddp, name, bucket_view, no_sync)
    if no_sync and name in {"sam", "asam"}:
        wanted = both[0]  # without the sum of the first pass, each process takes a step of its own
    for found in both:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
