"""The ghost batches of an update on their way through the network: in turn, or those of a batch in one pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoothout.ghost import forward_each, forward_ghosts
from smoothout.training.perturbed import Perturbations
from smoothout.training.step import Batch, Perturb

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Passes:
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


def passes(
    rows: Tensor,
    batch: Batch,
    model: nn.Module,
    network: Network,
    perturb: Perturbations,
    *,
    one_pass: bool,
    share: Callable[[int], slice] = lambda count: slice(0, count),
) -> Passes:
    """The passes of an update on ``rows``; ``network`` is ``model``, or what was compiled from it.

    ``share`` says which of so many ghost batches are this rank's. Even with ``one_pass``, ghost batches go one after
    another where they have noise of their own and sizes differ, and where a rank's are no whole batches.
    """
    cut = batch.cut(rows)
    own, count = share(len(cut)), len(cut)
    mine = cut[own]
    start, stop = (sum(map(len, cut[:end])) for end in (own.start, own.stop))
    whole = bool(mine) and start % batch.size == 0 and (stop % batch.size == 0 or stop == len(rows))
    alike = perturb.one_noise or len({len(piece) for piece in mine}) == 1
    if not (one_pass and whole and alike):
        return Passes(tuple(mine), own, count, network, lambda ghost: perturb(own.start + ghost, count), 1)
    parts = torch.split(rows[start:stop], batch.size)
    if perturb.one_noise:
        return Passes(parts, own, count, _divided(model, network, batch.ghosts), perturb, batch.ghosts)
    weights = perturb.stacked(own.start, (len(part) // len(mine[0]) for part in parts), count)

    def forward(inputs: Tensor) -> Tensor:
        return forward_each(model, inputs, next(weights))

    return Passes(parts, own, count, forward, _still, batch.ghosts)


def _divided(model: nn.Module, network: Network, ghosts: int) -> Network:
    def forward(inputs: Tensor) -> Tensor:
        return forward_ghosts(network, model, inputs, ghosts)

    return forward


def _still(ghost: int) -> list[nullcontext[None]]:
    """No noise but what the network has of its own."""
    return [nullcontext()]
