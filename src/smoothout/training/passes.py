"""The ghost batches of an update on their way through the network: in turn, or those of a batch in one pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoothout.ghost import forward_each, ghosted
from smoothout.training.perturbed import Perturbations
from smoothout.training.step import Batch, Perturb

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Passes:
    """What `update` is told of one update.

    Args:
        parts: row numbers, pass by pass.
        count: ghost batches in all of them.
        network: keeps the ghost batches of a pass apart.
        perturb: noise that a pass as a whole is under.
        ghosts: ghost batches a pass, at most.
    """

    parts: tuple[Tensor, ...]
    count: int
    network: Network
    perturb: Perturb
    ghosts: int


def passes(
    rows: Tensor, batch: Batch, model: nn.Module, network: Network, perturb: Perturbations, *, one_pass: bool
) -> Passes:
    """The passes of an update on ``rows``; ``network`` is ``model``, or what was compiled from it.

    Even with ``one_pass``, the ghost batches go in turn where curvature is measured, for it needs the gradient of one;
    so do those with noise of their own where sizes differ.
    """
    cut = batch.cut(rows)
    sizes = {len(piece) for piece in cut}
    if not one_pass or perturb.measuring or not (perturb.one_noise or len(sizes) == 1):
        return Passes(tuple(cut), len(cut), network, perturb, 1)
    parts = torch.split(rows, batch.size)
    if perturb.one_noise:
        return Passes(parts, len(cut), _divided(model, network, batch.ghosts), perturb, batch.ghosts)
    weights = perturb.stacked(len(part) // len(cut[0]) for part in parts)
    return Passes(parts, len(cut), lambda inputs: forward_each(model, inputs, next(weights)), _still, batch.ghosts)


def _divided(model: nn.Module, network: Network, ghosts: int) -> Network:
    def forward(inputs: Tensor) -> Tensor:
        with ghosted(model, ghosts):
            return network(inputs)

    return forward


def _still(ghost: int) -> list[nullcontext[None]]:
    """No noise but what the network has of its own."""
    return [nullcontext()]
