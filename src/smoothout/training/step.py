"""One update of the weights: Algorithm 1 of the SmoothOut paper, with ghost batches and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# For a ghost batch's index, the perturbed models that its gradient is the mean of: one context each.
Perturb = Callable[[int], Sequence[AbstractContextManager[object]]]


@dataclass(frozen=True)
class Batch:
    """How many examples an update sees, and in which pieces they go through the network.

    Args:
        size: examples an update.
        ghost: examples a ghost batch: each goes through the network by itself, so its BatchNorm statistics are its
            own (Hoffer et al. 2017); None is the whole batch at once. A batch is cut into size // ghost pieces, as in
            the released program, so they are larger than ``ghost`` where it does not divide ``size``.
    """

    size: int
    ghost: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: the batch must have at least 1 example, not {self.size}")
        if self.ghost is not None and not 1 <= self.ghost <= self.size:
            raise ValueError(f"ghost: must be null or between 1 and size = {self.size}, not {self.ghost}")

    def simplified(self) -> Batch:
        """The plainest settings with the same outcome: one ghost batch a batch is none."""
        return Batch(self.size) if self.pieces == 1 else self

    @property
    def pieces(self) -> int:
        """Ghost batches a batch."""
        return 1 if self.ghost is None else self.size // self.ghost

    def smallest_piece(self, examples: int) -> int:
        """Examples in the smallest ghost batch of an epoch of ``examples`` examples."""
        last = examples % self.size or self.size
        return min(len(piece) for size in (self.size, last) for piece in torch.arange(size).chunk(self.pieces))

    def updates(self, examples: int) -> int:
        """Updates an epoch of ``examples`` examples; the last, smaller batch counts."""
        return -(-examples // self.size)


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pieces: Iterable[tuple[Tensor, Tensor]],
    perturb: Perturb,
    clip_norm: float | None = None,
) -> tuple[Tensor, Tensor]:
    """[SmoothOut Alg. 1] Perturb the weights, backpropagate, take the noise out, update.

    ``pieces`` are the ghost batches (inputs, labels); the gradient is the sum of their mean gradients over their
    number, as in the released program, also where the last is smaller. Returns the sum of the losses and the number of
    right answers over all examples, both under noise and on the device.
    """
    pieces = list(pieces)
    losses, correct = [], []
    optimizer.zero_grad(set_to_none=True)
    for ghost, (inputs, labels) in enumerate(pieces):
        contexts = perturb(ghost)
        for context in contexts:
            with context:
                logits = model(inputs)
                loss = F.cross_entropy(logits, labels)
                (loss / (len(pieces) * len(contexts))).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach().double() * (len(labels) / len(contexts)))
            correct.append((logits.detach().argmax(1) == labels).sum().double() / len(contexts))
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return torch.stack(losses).sum(), torch.stack(correct).sum()
