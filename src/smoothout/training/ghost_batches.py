"""The ghost batches of an update on their way through the network: in turn, or those of a batch in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoothout.nn.ghost_batchnorm import forward_ghosts
from smoothout.nn.parameters import BATCHNORM, preserve_state
from smoothout.training.batch import Batch
from smoothout.training.noise_contexts import NoiseContexts
from smoothout.training.update import Perturb

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PassPlan:
    """What `update` is told of one update.

    Args:
        parts: row numbers, pass by pass: this rank's.
        own: which of the update's ghost batches these are.
        count: ghost batches of the update.
        network: keeps the ghost batches of a pass apart.
        perturb: noise that a pass as a whole is under.
        ghosts: ghost batches a pass, at most.
    """

    parts: tuple[Tensor, ...]
    own: slice
    count: int
    network: Network
    perturb: Perturb
    ghosts: int


def plan_passes(
    rows: Tensor,
    batch: Batch,
    model: nn.Module,
    network: Network,
    perturb: NoiseContexts,
    *,
    one_pass: bool,
    share: Callable[[int], slice] = lambda count: slice(0, count),
) -> PassPlan:
    """The passes of an update on ``rows``; ``network`` is ``model``, or what was compiled from it.

    ``share`` says which of so many ghost batches are this rank's. Even with ``one_pass``, a rank's go one after
    another where they are no whole batches.
    """
    cut = batch.split(rows)
    own, count = share(len(cut)), len(cut)
    mine = cut[own]
    start, stop = (sum(map(len, cut[:end])) for end in (own.start, own.stop))
    whole = bool(mine) and start % batch.size == 0 and (stop % batch.size == 0 or stop == len(rows))
    if not (one_pass and whole):
        return PassPlan(tuple(mine), own, count, network, lambda ghost: perturb(own.start + ghost, count), 1)
    parts = torch.split(rows[start:stop], batch.size)
    ghosts = batch.ghosts_per_batch
    return PassPlan(parts, own, count, _divided(model, network, ghosts), perturb, ghosts)


@torch.no_grad()
def fit_one_pass(model: nn.Module, example: Tensor) -> bool:
    """Whether several ghost batches of ``model`` can go in one pass, found out by trying with ``example``, (1, ...).

    They cannot where a BatchNorm layer is used more than once, because its running averages would take the last use
    alone. The model stays as it is.
    """
    uses, inputs = Counter[nn.Module](), torch.cat([example] * 4)  # two ghost batches: BatchNorm wants two examples
    layers = [module for module in model.modules() if isinstance(module, BATCHNORM)]
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: uses.update([layer])) for layer in layers]
    try:
        with preserve_state(model):
            model.train()
            forward_ghosts(model, model, inputs, 2)
    except Exception:  # where it is the model's own, ghost batches one after another meet it too
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return max(uses.values(), default=0) <= 1


def _divided(model: nn.Module, network: Network, ghosts: int) -> Network:
    def forward(inputs: Tensor) -> Tensor:
        return forward_ghosts(network, model, inputs, ghosts)

    return forward
