"""The mean loss over all examples as a function of the weights: what sharpness maximizes and the Hessian is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_positive
from smoothout.common.pass_cache import cached_pass
from smoothout.nn.parameters import clear_weight_caches, concatenate, float64_device

Batches = Iterable[tuple[Any, Any]]  # pairs (inputs, targets), the same examples at every pass
Loss = Callable[[Any, Any], Tensor]  # of (outputs, targets): the mean over the examples of a batch
Weight = Callable[[Any, Any], float]  # of (inputs, targets): how many examples a batch counts as; 0 skips it
Tick = Callable[[], object]  # called after each unit of work, for a progress bar


def batch_size(inputs: Any, targets: Any) -> float:
    """The number of examples in a batch. Raises ValueError if ``targets`` is not a tensor of shape (N, ...)."""
    if not (isinstance(targets, Tensor) and targets.dim()):
        raise ValueError("batches: targets are not a tensor (examples, ...); give a weight, how much a batch counts")
    return len(targets)


class EmpiricalRisk:
    """The mean of ``loss`` over all examples of ``batches``, as a function of some ``parameters`` of ``model``.

    A float32 model computes each batch in float32; sums over batches are float64, on the `float64_device` of the
    parameters. Results are returned on ``device``; None uses the device of the sums.
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
        """The mean over all examples of the tensors that ``of_batch`` computes from a batch's loss, one float64 vector.

        It does not synchronize with the device. Raises ValueError if there are no examples, or not as many as in the
        pass before.
        """
        return cached_pass(lambda: self._mean(of_batch)).to(self.device)

    def _mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        sums: Tensor | None = None
        examples = 0.0
        for inputs, targets in self.batches:
            weight = check_weight(self.weight(inputs, targets))
            if not weight:
                continue
            # Caches may hold weights from another point, or a graph that a backward pass has freed.
            clear_weight_caches()
            values = concatenate(of_batch(check_loss(self.loss(self.model(inputs), targets))))
            sums = torch.zeros_like(values, dtype=torch.float64) if sums is None else sums
            sums.add_(values, alpha=weight)
            examples += weight
        if sums is None or (self.examples and not math.isclose(self.examples, examples)):
            raise ValueError(
                f"batches: {examples:.12g} examples in this pass, {self.examples:.12g} in the one before; must be the"
                " same examples at every pass"
            )
        self.examples = examples
        return sums.div_(examples)

    def with_gradient(self) -> Tensor:
        """The mean loss followed by its gradient with respect to the parameters, shape (1 + n,)."""
        return self.mean(lambda loss: [loss, *self._gradient(loss)])

    def check_deterministic(self, first: Tensor) -> None:
        """Raise ValueError if another pass differs from ``first``, the result of `with_gradient` at these weights.

        Augmentation, dropout or a dropped last batch would be mistaken for the shape of the loss. A tolerance allows
        for another order of the same examples, or of a device's sums. It is relative to the losses and gradients of
        single batches, because their mean may vanish.
        """

        def with_sizes(loss: Tensor) -> Sequence[Tensor]:
            gradient = self._gradient(loss)
            return [loss, *gradient, loss.abs(), torch.stack([part.norm() for part in gradient]).norm()]

        *second, loss_size, gradient_size = torch.split(self.mean(with_sizes), [1, len(first) - 1, 1, 1])
        eps = machine_epsilon(self.parameters)
        tolerances = {"loss": min(100 * eps, math.sqrt(eps)) * loss_size, "gradient": math.sqrt(eps) * gradient_size}
        for before, after, (what, tolerance) in zip((first[:1], first[1:]), second, tolerances.items(), strict=True):
            if (before - after).norm() > tolerance:
                raise ValueError(
                    f"model, batches: two passes differ in the {what}; turn off augmentation and other randomness"
                )

    def _gradient(self, loss: Tensor) -> list[Tensor]:
        return to_dense(torch.autograd.grad(loss, self.parameters, materialize_grads=True))


def to_dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    """``gradients``, sparse ones (an embedding's) as dense tensors."""
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]


def check_weight(weight: float) -> float:
    """``weight``, how much a batch counts. Raises ValueError unless it is a finite number >= 0."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: must return a finite number >= 0 for each batch, not {weight}")
    return float(weight)


def check_loss(value: Any) -> Tensor:
    """``value``, the loss of a batch. Raises ValueError unless it is a tensor with one element."""
    if not (isinstance(value, Tensor) and value.numel() == 1):
        form = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f'loss: must return one number, a tensor with a batch\'s mean (reduction="mean"), not {form}')
    return value


def machine_epsilon(parameters: Iterable[Tensor]) -> float:
    """The machine epsilon of the coarsest dtype among ``parameters``."""
    return max(torch.finfo(p.dtype).eps for p in parameters)


def iter_pairs(name: str, batches: Batches) -> Iterator[tuple[Any, Any]]:
    """Each batch. Raises ValueError at one that is not a pair."""
    batch: Any
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            form = f"{len(batch)} elements" if isinstance(batch, tuple | list) else type(batch).__name__
            example = '[(batch["inputs"], batch["targets"]) for batch in loader]'
            raise ValueError(f"{name}: each must be a pair (inputs, targets), not {form}; use for example {example}")
        inputs, targets = batch
        yield inputs, targets


def check_batches(name: str, batches: Batches) -> None:
    """Raise ValueError for batches that are empty, allow only one pass, or do not start with a pair."""
    if isinstance(batches, Iterator) or next(iter_pairs(name, batches), None) is None:
        raise ValueError(f"{name}: must hold (inputs, targets) and allow more than one pass, not {batches!r}")


def check_width(parameters: Iterable[Tensor], **widths: float) -> None:
    """Raise ValueError for a relative width of a region that the dtype of ``parameters`` cannot resolve."""
    check_positive(**widths)
    least = machine_epsilon(parameters)
    for name, width in widths.items():
        if width < least:
            raise ValueError(f"{name}: must be at least {least:.2g}, the rounding of the weights, not {width!r}")
