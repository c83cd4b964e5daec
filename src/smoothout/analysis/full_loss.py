"""The mean loss over all examples: what sharpness climbs and what the Hessian is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.journal import passed
from smoothout.parameters import flatten

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]
Tick = Callable[[], object]  # called after each piece of work, for a progress bar


class FullLoss:
    """The mean of ``loss`` over all examples of ``batches``, as a function of some ``parameters`` of ``model``.

    A model of float32 computes each batch in float32; sums over batches are float64.
    """

    def __init__(self, model: nn.Module, batches: Batches, loss: Loss, parameters: Sequence[nn.Parameter]) -> None:
        self.model, self.batches, self.loss, self.parameters = model, batches, loss, parameters
        self.examples = 0

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """The mean over all examples of what ``of_batch`` makes of a batch's loss, flattened: float64 on the CPU.

        Raises ValueError when there are no examples, or not as many as in the pass before.
        """
        return passed(lambda: self._mean(of_batch))

    def _mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        sums: list[Tensor] = []
        examples = 0
        for inputs, targets in self.batches:
            pieces = of_batch(self.loss(self.model(inputs), targets))
            sums = sums or [torch.zeros_like(piece, dtype=torch.float64) for piece in pieces]
            for sum_so_far, piece in zip(sums, pieces, strict=True):
                sum_so_far.add_(piece.detach(), alpha=len(targets))
            examples += len(targets)
        if not examples or self.examples not in {0, examples}:
            raise ValueError(f"batches has {examples} examples, {self.examples} before: must repeat itself")
        self.examples = examples
        return flatten(sums).div_(examples)

    def with_gradient(self) -> Tensor:
        """The mean loss and, behind it, its gradient by the parameters: shape (1 + n,)."""
        return self.mean(lambda value: [value, *self._gradient(value)])

    def refuse_chance(self, first: Tensor) -> None:
        """Raise ValueError where another pass is not ``first``, one `with_gradient` at the present weights.

        Augmentation, dropout or a last batch left out would be taken for the loss's shape. Another order of the same
        examples, or a device that adds up in another order, stays within the slack: it is relative to the batches' own
        losses and gradients, for their mean may vanish.
        """

        def with_sizes(value: Tensor) -> Sequence[Tensor]:
            slopes = self._gradient(value)
            return [value, *slopes, value.abs(), torch.stack([slope.norm() for slope in slopes]).norm()]

        *second, loss_size, gradient_size = torch.split(self.mean(with_sizes), [1, len(first) - 1, 1, 1])
        eps = rounding(self.parameters)
        slacks = {"loss": min(100 * eps, math.sqrt(eps)) * loss_size, "gradient": math.sqrt(eps) * gradient_size}
        for before, after, (what, slack) in zip((first[:1], first[1:]), second, slacks.items(), strict=True):
            if (before - after).norm() > slack:
                raise ValueError(f"model, batches: two passes differ in the {what}: must answer twice the same")

    def _gradient(self, value: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(value, self.parameters, materialize_grads=True)


def rounding(parameters: Iterable[Tensor]) -> float:
    """The relative distance of neighbouring numbers in the coarsest dtype among ``parameters``."""
    return max(torch.finfo(p.dtype).eps for p in parameters)


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless each is a finite number above 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name}: must be a finite number above 0, not {number!r}")


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Raise ValueError unless each is a whole number of at least ``least``."""
    for name, count in counts.items():
        if not (isinstance(count, int) and not isinstance(count, bool) and count >= least):
            raise ValueError(f"{name}: must be a whole number of at least {least}, not {count!r}")


def check_batches(name: str, batches: Batches) -> None:
    """Raise ValueError for batches that are empty or can be gone through only once."""
    if isinstance(batches, Iterator) or next(iter(batches), None) is None:
        raise ValueError(f"{name}: must hold (inputs, targets) and allow more than one pass, not {batches!r}")


def check_width(parameters: Iterable[Tensor], **widths: float) -> None:
    """Raise ValueError for a relative width of a region that the parameters' own dtype cannot resolve."""
    check_positive(**widths)
    least = rounding(parameters)
    for name, width in widths.items():
        if width < least:
            raise ValueError(f"{name}: must be at least {least:.2g}, the rounding of the weights, not {width!r}")
