"""One update of the weights: Algorithm 1 of the SmoothOut paper, with ghost batches and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.nn.ghost_batchnorm import split_remainder

# For a ghost batch's index, the perturbed models that its gradient is the mean of: one context each.
Perturb = Callable[[int], Sequence[AbstractContextManager[object]]]


def update(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    pieces: Iterable[tuple[Tensor, Tensor]],
    count: int,
    perturb: Perturb,
    *,
    clip_norm: float | None = None,
    ghosts: int = 1,
    add_up: Callable[[Tensor], None] = lambda sums: None,
    measure: Callable[[], None] = lambda: None,
) -> Tensor:
    """[SmoothOut Alg. 1] Perturb the weights, backpropagate, take the noise out, update.

    ``pieces`` (inputs, labels) are taken one by one; each is ``ghosts`` ghost batches that
    ``network`` keeps apart by itself, ``count`` in all. The gradient is the sum of the ghost batches' mean
    gradients over their number, as in the released program, also where the last is smaller. Where ranks share an
    update, ``pieces`` are one rank's, and ``add_up`` adds up the ranks' gradients and the sums that it
    is given. ``measure`` is called when each parameter's ``grad`` is the whole update's, before it is clipped. Returns
    the sum of the losses and the number of right answers over all examples, (2,), both under noise and on the device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses, correct, ghost = list[Tensor](), list[Tensor](), 0
    optimizer.zero_grad(set_to_none=True)
    for inputs, labels in pieces:
        contexts, size = perturb(ghost), -(-len(labels) // ghosts)
        for context in contexts:
            with context:
                logits = network(inputs)
                means = mean_losses(logits, labels, size)
                (torch.cat(means).sum() / (count * len(contexts))).backward()  # type: ignore[no-untyped-call]
            sizes = (len(each) for each in split_remainder(labels, size))
            losses += [m.detach().double() * (n / len(m) / len(contexts)) for m, n in zip(means, sizes, strict=True)]
            correct.append((logits.detach().argmax(1) == labels).sum().double() / len(contexts))
        ghost += sum(map(len, means))
    none = parameters[0].new_zeros((), dtype=torch.float64)  # a rank may have no piece
    sums = torch.stack([torch.cat(losses).sum() if losses else none, torch.stack(correct).sum() if correct else none])
    add_up(sums)
    measure()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    return sums


def mean_losses(logits: Tensor, labels: Tensor, size: int) -> list[Tensor]:
    """The mean cross entropy of each ghost batch of ``size`` examples, (ghosts,), then of a smaller rest, (1,)."""
    if len(labels) == size:
        return [F.cross_entropy(logits, labels).view(1)]
    losses = F.cross_entropy(logits, labels, reduction="none")
    return [part.view(-1, min(size, len(part))).mean(1) for part in split_remainder(losses, size)]
