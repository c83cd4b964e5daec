"""The mean loss over all examples: what sharpness climbs and what the Hessian is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_positive
from smoothout.common.pass_cache import cached_pass
from smoothout.nn.parameters import clear_weight_caches, concatenate, float64_device

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]
Weight = Callable[[Any, Any], float]  # of (inputs, targets): how much a batch counts
Tick = Callable[[], object]  # called after each piece of work, for a progress bar


def batch_size(inputs: Any, targets: Any) -> float:
    """How many examples a batch has. Raises ValueError where its targets do not tell: no tensor of shape (N, ...)."""
    if not (isinstance(targets, Tensor) and targets.dim()):
        raise ValueError("batches: targets that are no tensor (examples, ...) need a weight, how much a batch counts")
    return len(targets)


class EmpiricalRisk:
    """The mean of ``loss`` over all examples of ``batches``, as a function of some ``parameters`` of ``model``.

    A model of float32 computes each batch in float32; sums over batches are float64, on the `float64_device` of the
    parameters. Results lie on ``device``; None leaves them there. ``weight`` says how many examples a batch counts as,
    in place of ``len(targets)``: a number >= 0, and a batch of 0 is left out.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss,
        parameters: Sequence[nn.Parameter],
        *,
        weight: Weight | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.batches, self.loss, self.parameters = model, batches, loss, parameters
        self.weight = weight or batch_size
        self.device = device or float64_device(parameters)
        self.examples = 0.0

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """The mean over all examples of what ``of_batch`` makes of a batch's loss, flattened: float64.

        Nothing waits for the device where it stays there.

        Raises ValueError when there are no examples, or not as many as in the pass before.
        """
        return cached_pass(lambda: self._mean(of_batch)).to(self.device)

    def _mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        sums: Tensor | None = None
        total = 0.0
        for inputs, targets in self.batches:
            share = checked_weight(self.weight(inputs, targets))
            if not share:
                continue
            clear_weight_caches()  # of weights that were elsewhere, and of a graph that one backward pass has used up
            found = concatenate(of_batch(checked_loss(self.loss(self.model(inputs), targets))))
            sums = torch.zeros_like(found, dtype=torch.float64) if sums is None else sums
            sums.add_(found, alpha=share)
            total += share
        if sums is None or (self.examples and not math.isclose(self.examples, total)):
            raise ValueError(f"batches has {total:.12g} examples, {self.examples:.12g} before: must repeat itself")
        self.examples = total
        return sums.div_(total)

    def with_gradient(self) -> Tensor:
        """The mean loss and, behind it, its gradient by the parameters: shape (1 + n,)."""
        return self.mean(lambda value: [value, *self._gradient(value)])

    def check_deterministic(self, first: Tensor) -> None:
        """Raise ValueError where another pass is not ``first``, one `with_gradient` at the present weights.

        Augmentation, dropout or a last batch left out would be taken for the loss's shape. Another order of the same
        examples, or a device that adds up in another order, stays within the slack: it is relative to the batches' own
        losses and gradients, for their mean may vanish.
        """

        def with_sizes(value: Tensor) -> Sequence[Tensor]:
            slopes = self._gradient(value)
            return [value, *slopes, value.abs(), torch.stack([slope.norm() for slope in slopes]).norm()]

        *second, loss_size, gradient_size = torch.split(self.mean(with_sizes), [1, len(first) - 1, 1, 1])
        eps = machine_epsilon(self.parameters)
        slacks = {"loss": min(100 * eps, math.sqrt(eps)) * loss_size, "gradient": math.sqrt(eps) * gradient_size}
        for before, after, (what, slack) in zip((first[:1], first[1:]), second, slacks.items(), strict=True):
            if (before - after).norm() > slack:
                raise ValueError(f"model, batches: two passes differ in the {what}: must answer twice the same")

    def _gradient(self, value: Tensor) -> Sequence[Tensor]:
        return dense(torch.autograd.grad(value, self.parameters, materialize_grads=True))


def dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The same with sparse ones (an embedding's) written out."""
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]


def checked_weight(weight: float) -> float:
    """``weight``, how much a batch counts. Raises ValueError unless it is a finite number >= 0."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: must give a finite number >= 0 for each batch, not {weight}")
    return float(weight)


def checked_loss(value: Any) -> Tensor:
    """``value``, the loss of a batch. Raises ValueError unless it is a tensor with one number."""
    if not (isinstance(value, Tensor) and value.numel() == 1):
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f'loss: must give one number, a tensor with the mean of a batch (reduction="mean"), not {found}'
        )
    return value


def machine_epsilon(parameters: Iterable[Tensor]) -> float:
    """The relative distance of neighbouring numbers in the coarsest dtype among ``parameters``."""
    return max(torch.finfo(p.dtype).eps for p in parameters)


def iter_pairs(name: str, batches: Batches) -> Iterator[tuple[Any, Any]]:
    """Each of ``batches``, as it is. Raises ValueError at one that is no pair."""
    batch: Any
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            found = f"{len(batch)} things" if isinstance(batch, tuple | list) else type(batch).__name__
            how = '[(batch["inputs"], batch["targets"]) for batch in loader], say'
            raise ValueError(f"{name}: each must be a pair (inputs, targets), not {found}; make them pairs: {how}")
        inputs, targets = batch
        yield inputs, targets


def check_batches(name: str, batches: Batches) -> None:
    """Raise ValueError for batches that are empty, can be gone through only once, or begin with what is no pair."""
    if isinstance(batches, Iterator) or next(iter_pairs(name, batches), None) is None:
        raise ValueError(f"{name}: must hold (inputs, targets) and allow more than one pass, not {batches!r}")


def check_width(parameters: Iterable[Tensor], **widths: float) -> None:
    """Raise ValueError for a relative width of a region that the parameters' own dtype cannot resolve."""
    check_positive(**widths)
    least = machine_epsilon(parameters)
    for name, width in widths.items():
        if width < least:
            raise ValueError(f"{name}: must be at least {least:.2g}, the rounding of the weights, not {width!r}")
