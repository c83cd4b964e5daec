"""How the ghost batches of an update go through the network: one after another, or those of a batch in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from smoothout.data.split import Split, SplitBatches
from smoothout.nn.ghost_batchnorm import forward_ghosts
from smoothout.nn.parameters import BATCHNORM, preserve_state
from smoothout.training.batch import Batch

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PassPlan:
    """How the ghost batches of one update go through the network."""

    passes: tuple[Tensor, ...]  # row numbers of each pass of this process
    shard: slice  # which of the update's ghost batches are this process's
    num_ghosts: int  # ghost batches of the update, over all processes
    network: Network  # keeps the ghost batches of a pass apart
    ghosts_per_pass: int  # largest number of ghost batches in a pass


def plan_passes(
    rows: Tensor, batch: Batch, model: nn.Module, network: Network, *, one_pass: bool, shard: Callable[[int], slice]
) -> PassPlan:
    """The passes of an update on ``rows``, the row numbers of its examples over all processes, (n,).

    Args:
        network: ``model``, or what was compiled from it.
        one_pass: whether the ghost batches of a batch go in one pass; where a process has only a part of a batch, its
            ghost batches go one after another in any case.
        shard: which of N ghost batches are this process's.
    """
    ghosts = batch.split(rows)
    own = shard(len(ghosts))

    # One pass needs whole batches: they begin at a multiple of the batch size, and end at one or with the update.
    start, stop = (sum(map(len, ghosts[:end])) for end in (own.start, own.stop))
    whole = start < stop and start % batch.size == 0 and (stop % batch.size == 0 or stop == len(rows))
    if not (one_pass and whole):
        return PassPlan(tuple(ghosts[own]), own, len(ghosts), network, 1)
    per_pass = batch.ghosts_per_batch
    forward = partial(forward_ghosts, network, model, ghosts=per_pass)
    return PassPlan(torch.split(rows[start:stop], batch.size), own, len(ghosts), forward, per_pass)


def own_rows(rows: Tensor, batch: Batch, shard: Callable[[int], slice]) -> Tensor:
    """The part of an update's ``rows`` that this process's passes use, see `plan_passes`."""
    ghosts = batch.split(rows)
    return torch.cat([rows[:0], *ghosts[shard(len(ghosts))]])


@torch.no_grad()
def fit_one_pass(model: nn.Module, example: Tensor) -> bool:
    """Whether ``model`` can take several ghost batches in one pass, tried with copies of ``example``, (1, ...).

    It cannot if a BatchNorm layer does not support ghost batches, or is used more than once: its running statistics
    would then count the last use only. The model is not changed.
    """
    uses, inputs = Counter[nn.Module](), torch.cat([example] * 4)  # two ghost batches: BatchNorm wants two examples
    layers = (module for module in model.modules() if isinstance(module, BATCHNORM))
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: uses.update([layer])) for layer in layers]
    try:
        with preserve_state(model):
            model.train()
            forward_ghosts(model, model, inputs, 2)
    except Exception:  # an error of the model itself appears again in sequential passes
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return max(uses.values(), default=0) <= 1


def statistics_batches(split: Split, batch: Batch) -> SplitBatches:
    """The training examples in (ghost) batches for BatchNorm's statistics, without a last batch of one example."""
    batches = split.batches(batch.ghost or batch.size)
    return replace(batches, which=slice(len(batches) - (len(split) % batches.size == 1) or None))
