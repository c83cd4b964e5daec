"""One update of the weights: Algorithm 1 of the SmoothOut paper, with ghost batches and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.nn.ghost_batchnorm import whole_and_rest

# For a ghost batch's index, the perturbed models that its gradient is the mean of: one context each.
Perturb = Callable[[int], Sequence[AbstractContextManager[object]]]


@dataclass(frozen=True)
class Batch:
    """[Hoffer 2017, Alg. 1] How many examples an update sees, and in which pieces they go through the network.

    Args:
        size: examples an update.
        ghost: examples a ghost batch: each goes through the network by itself, so its BatchNorm statistics are its
            own (Hoffer et al. 2017); None is the whole batch at once. A batch is cut into size // ghost pieces, as in
            the released program, so they are larger than ``ghost`` where it does not divide ``size``.
        multiplier: batches an update: their gradients are added up, as if they were one batch of ``examples``.
    """

    size: int
    ghost: int | None = None
    multiplier: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: the batch must have at least 1 example, not {self.size}")
        if self.ghost is not None and not 1 <= self.ghost <= self.size:
            raise ValueError(f"ghost: must be null or between 1 and size = {self.size}, not {self.ghost}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier: must be a whole number >= 1, not {self.multiplier}")

    def fitting(self, examples: int) -> Batch:
        """Itself; raises ValueError where an update sees more than all ``examples`` training examples."""
        if self.examples > examples:
            times = f" x multiplier {self.multiplier}" if self.multiplier > 1 else ""
            raise ValueError(f"size: {self.size}{times} is more than the {examples} training examples in use")
        return self

    def simplified(self) -> Batch:
        """The plainest settings with the same outcome: one ghost batch a batch is none."""
        return self if self.ghosts > 1 else replace(self, ghost=None)

    @property
    def examples(self) -> int:
        """Examples an update."""
        return self.size * self.multiplier

    @property
    def ghosts(self) -> int:
        """Ghost batches a batch, at most."""
        return 1 if self.ghost is None else self.size // self.ghost

    @property
    def pieces(self) -> int:
        """Ghost batches an update, at most."""
        return self.ghosts * self.multiplier

    def cut(self, rows: Tensor) -> list[Tensor]:
        """The ghost batches of an update on ``rows``, (n,). A last, smaller batch is cut into as many smaller ones."""
        return [piece for batch in torch.split(rows, self.size) for piece in batch.chunk(self.ghosts)]

    def smallest_piece(self, examples: int) -> int:
        """Examples in the smallest ghost batch of an epoch of ``examples`` examples."""
        last = examples % self.examples or self.examples
        return min(len(piece) for n in {self.examples, last} for piece in self.cut(torch.arange(n)))

    def updates(self, examples: int) -> int:
        """Updates an epoch of ``examples`` examples; the last, smaller one counts."""
        return -(-examples // self.examples)


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

    ``pieces`` (inputs, labels) are taken one by one; each is ``ghosts`` ghost batches that ``network`` keeps apart by
    itself, ``count`` in all. The gradient is the sum of the ghost batches' mean gradients over their number, as in the
    released program, also where the last is smaller. Where ranks share an update, ``pieces`` are one rank's, and
    ``add_up`` adds up the ranks' gradients and the sums that it is given. ``measure`` is called when each parameter's
    ``grad`` is the whole update's, before it is clipped. Returns the sum of the losses and the number
    of right answers over all examples, (2,), both under noise and on the device.
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
            sizes = (len(each) for each in whole_and_rest(labels, size))
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
    return [part.view(-1, min(size, len(part))).mean(1) for part in whole_and_rest(losses, size)]
