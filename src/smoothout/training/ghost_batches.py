"""How the ghost batches of an update are forwarded: one after another, or those of a batch in one pass."""

from __future__ import annotations

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
    """How the ghost batches of one update are forwarded."""

    passes: tuple[Tensor, ...]  # row numbers of each pass of this process
    shard: slice  # which of the update's ghost batches are this process's
    num_ghosts: int  # ghost batches of the update, over all processes
    network: Network  # keeps the ghost batches of a pass apart
    ghosts_per_pass: int  # largest number of ghost batches in a pass


def plan_passes(
    rows: Tensor, batch: Batch, model: nn.Module, network: Network, *, one_pass: bool, shard: Callable[[int], slice]
) -> PassPlan:
    """The passes of an update on ``rows``, the row numbers of its examples over all processes, (n, ...).

    Args:
        network: ``model``, or its compiled version.
        one_pass: whether to forward the ghost batches of a batch in one pass. If a process has only a part of a batch,
            its ghost batches are forwarded one after another anyway.
        shard: returns this process's part of N ghost batches.
    """
    ghosts = batch.split(rows)
    part = shard(len(ghosts))

    # One pass needs whole batches, which start at a multiple of the batch size and end at one or with the update.
    start, stop = (sum(map(len, ghosts[:end])) for end in (part.start, part.stop))
    has_whole_batches = start < stop and start % batch.size == 0 and (stop % batch.size == 0 or stop == len(rows))
    if not (one_pass and has_whole_batches):
        return PassPlan(tuple(ghosts[part]), part, len(ghosts), network, 1)
    per_pass = batch.ghosts_per_batch
    forward = partial(forward_ghosts, network, model, ghosts=per_pass)
    return PassPlan(torch.split(rows[start:stop], batch.size), part, len(ghosts), forward, per_pass)


def own_rows(rows: Tensor, batch: Batch, shard: Callable[[int], slice]) -> Tensor:
    """The part of an update's ``rows`` that this process's passes use, see `plan_passes`."""
    ghosts = batch.split(rows)
    return torch.cat([rows[:0], *ghosts[shard(len(ghosts))]])


@dataclass(frozen=True)
class BufferUse:
    """What a forward pass in training mode does to a model's buffers."""

    batchnorm_uses: dict[str, int]  # how often each BatchNorm layer is used, by name
    others: tuple[str, ...]  # buffers that change besides BatchNorm's statistics, such as spectral norm's vectors

    @property
    def fits_one_pass(self) -> bool:
        """Whether one pass over several ghost batches changes the buffers like one pass for each."""
        return not self.others and max(self.batchnorm_uses.values(), default=0) <= 1

    def check_fits_processes(self) -> None:
        """Raise ValueError unless the changes made by several processes can be combined."""
        if self.others:
            raise ValueError(f"model: a pass changes {self.others[0]}, which several processes cannot do together")
        for name, uses in self.batchnorm_uses.items():
            if uses != 1:
                raise ValueError(
                    f"model: {name} is used {uses} times in a pass; several processes need each BatchNorm layer once"
                )


@torch.no_grad()
def buffer_use(model: nn.Module, example: Tensor, ghosts: int = 1) -> BufferUse | None:
    """Try one pass over ``ghosts`` ghost batches, each with two copies of ``example``, (1, ...); restores the model.

    Returns None if the pass fails: a BatchNorm layer may not support ghost batches, and an error in the model will
    occur again in the training.
    """
    named = {name: module for name, module in model.named_modules() if isinstance(module, BATCHNORM)}
    uses, inputs = dict.fromkeys(named, 0), torch.cat([example] * 2 * ghosts)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.rpartition(".")[0] not in named}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: uses.update({name: uses[name] + 1})

    hooks = [layer.register_forward_pre_hook(count(name)) for name, layer in named.items()]
    try:
        with preserve_state(model):
            model.train()
            forward_ghosts(model, model, inputs, ghosts) if ghosts > 1 else model(inputs)
            after = dict(model.named_buffers())
            others = tuple(name for name, buffer in before.items() if not torch.equal(after[name], buffer))
    except Exception:
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return BufferUse(uses, others)


def statistics_batches(split: Split, batch: Batch) -> SplitBatches:
    """The training examples in (ghost) batches for BatchNorm's statistics; a last batch of one example is dropped."""
    batches = split.batches(batch.examples_per_pass)
    return replace(batches, which=slice(len(batches) - (len(split) % batches.size == 1) or None))
