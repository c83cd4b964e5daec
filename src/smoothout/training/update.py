"""One update of the weights: Algorithm 1 of the SmoothOut paper, with ghost batches and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.nn.ghost_batchnorm import split_remainder


@dataclass
class GhostBatch:
    """The examples of one forward pass: one ghost batch, or several that the network normalizes separately."""

    network: Callable[[Tensor], Tensor]
    inputs: Tensor  # (n, ...)
    labels: Tensor  # (n,)
    index: int  # index of the first ghost batch within the update
    num_ghosts: int  # ghost batches of the update, over all processes
    ghosts_per_pass: int = 1
    seed_dropout: Callable[[int], None] = lambda ghost: None
    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    others: Sequence[Tensor] = ()  # inputs and labels of as many other examples, if the method needs them

    def backward(self, passes: float = 1, regularizer: Callable[[Tensor], Tensor] | None = None) -> None:
        """Add the gradient at the current weights to ``grad``, and record losses and correct predictions.

        All of them are divided by ``passes``, which may be fractional: 1 / s weights the pass by s. ``regularizer``
        maps the logits, (n, classes), to a loss term that is added but not recorded.
        """
        logits, means = self._forward()
        loss = torch.cat(means).sum()
        if regularizer:
            loss = loss + regularizer(logits)
        (loss / (self.num_ghosts * passes)).backward()  # type: ignore[no-untyped-call]
        self._record(logits, means, passes)

    def gradient(self, parameters: Sequence[nn.Parameter], *, record: bool = False) -> list[Tensor]:
        """The gradient of the mean loss at the current weights; ``grad`` does not change.

        The next pass has the same dropout masks. BatchNorm's running statistics are updated as in any pass. With
        ``record``, losses and correct predictions are recorded, for a method that never calls `backward`.
        """
        logits, means = self._forward()
        gradients = torch.autograd.grad(torch.cat(means).mean(), parameters, allow_unused=True, materialize_grads=True)
        self.seed_dropout(self.index)
        if record:
            self._record(logits, means, 1)
        return list(gradients)

    def _record(self, logits: Tensor, means: Sequence[Tensor], passes: float) -> None:
        sizes = (len(part) for part in split_remainder(self.labels, self._size))
        self.losses += [m.detach().double() * (n / len(m) / passes) for m, n in zip(means, sizes, strict=True)]
        self.correct.append((logits.detach().argmax(1) == self.labels).sum().double() / passes)

    def update_statistics(self) -> None:
        """Update BatchNorm's running statistics with a forward pass at the current weights.

        The next pass has the same dropout masks.
        """
        with torch.no_grad():
            self.network(self.inputs)
        self.seed_dropout(self.index)

    @property
    def ghosts_in_pass(self) -> int:
        """The number of ghost batches in this pass."""
        return -(-len(self.labels) // self._size)

    @property
    def _size(self) -> int:
        return -(-len(self.labels) // self.ghosts_per_pass)

    def _forward(self) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the mean cross entropy of each full ghost batch, (ghosts,), then of a smaller remainder, (1,)."""
        logits, size = self.network(self.inputs), self._size
        if len(self.labels) == size:
            return logits, [F.cross_entropy(logits, self.labels).view(1)]
        losses = F.cross_entropy(logits, self.labels, reduction="none")
        return logits, [part.view(-1, min(size, len(part))).mean(1) for part in split_remainder(losses, size)]


def update(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Sequence[Tensor]],
    num_ghosts: int,
    backward: Callable[[GhostBatch], None] = GhostBatch.backward,
    *,
    first: int = 0,
    ghosts_per_pass: int = 1,
    clip_norm: float | None = None,
    seed_dropout: Callable[[int], None] = lambda ghost: None,
    all_reduce: Callable[[Tensor], None] = lambda sums: None,
    before_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """[SmoothOut Alg. 1] Perturb the weights, backpropagate, remove the noise, update.

    The gradient is the sum of the ghost batches' mean gradients divided by their number, as in the released program,
    even if the last one is smaller.

    Args:
        network: normalizes the ghost batches of a pass separately if there are several.
        optimizer: of the parameters to update; their gradients are set to None first.
        batches: (inputs, labels) of each pass, taken one at a time; `GhostBatch.others` may follow. With several
            processes, those of this process.
        num_ghosts: ghost batches of the update, over all processes.
        backward: adds the gradient of a pass to ``grad``, as the method computes it.
        first: index of the first ghost batch in ``batches`` within the update.
        ghosts_per_pass: largest number of ghost batches in each of ``batches``; all but the last have the same size.
        clip_norm: largest norm of the gradient; None does not clip.
        seed_dropout: seeds the dropout masks of a ghost batch, given its index; the caller has seeded the first.
        all_reduce: sums gradients, and its argument, over processes.
        before_step: called once ``grad`` holds the gradient of the whole update, before clipping.

    Returns:
        The sum of the losses and the number of correct predictions over all examples, (2,), float64, on the device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses, correct, index = list[Tensor](), list[Tensor](), first
    optimizer.zero_grad(set_to_none=True)
    for inputs, labels, *others in batches:
        if index:
            seed_dropout(index)
        ghosts = GhostBatch(
            network, inputs, labels, index, num_ghosts, ghosts_per_pass, seed_dropout, losses, correct, others
        )
        backward(ghosts)
        index += ghosts.ghosts_in_pass
    if index > first and not losses:
        raise RuntimeError(
            "method: recorded no loss; must call ghost_batch.backward(), or ghost_batch.gradient(..., record=True)"
        )
    # Sums stay on the device: reading them here would wait for the update.
    zero = parameters[0].new_zeros((), dtype=torch.float64)  # a process may have no ghost batch
    sums = torch.stack([torch.cat(losses).sum() if losses else zero, torch.stack(correct).sum() if correct else zero])
    all_reduce(sums)
    before_step()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    return sums
