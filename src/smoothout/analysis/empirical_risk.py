"""The mean loss over all examples as a function of the weights, for sharpness and the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_positive
from smoothout.analysis.batch_loss import Loss, Weight, batch_loss, batch_size, check_weight
from smoothout.analysis.models import differentiable
from smoothout.common.pass_cache import cached_pass, without_pass_cache
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches, Examples
from smoothout.nn.forward import forward
from smoothout.nn.parameters import clear_weight_caches, concatenate, float64_device
from smoothout.nn.watch import unwatched

NOTHING_TO_MEASURE = "batches: nothing to measure in a pass: there are no batches, or all have weight 0"
T = TypeVar("T")
Tick = Callable[[], object]  # called after each unit of work, for a progress bar


class EmpiricalRisk:
    """The mean of ``loss`` over all examples of ``batches``, as a function of some ``parameters`` of ``model``.

    Each batch is computed in the model's dtype; sums over batches are float64, on the `float64_device` of the
    parameters. Results are returned on ``device``; None uses the device of the sums.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss | None,
        parameters: Sequence[nn.Parameter],
        *,
        weight: Weight | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.loss, self.parameters = model, loss, parameters
        self.batches = Examples("batches", batches, model)
        self.weight = weight or batch_size
        self.device = device or float64_device(parameters)
        self.rounding = rounding_of(model)
        self.examples = 0.0

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """The mean over all examples of the tensors that ``of_batch`` computes from a batch's loss, a float64 vector.

        It does not synchronize with the device. Raises ValueError if there are no examples, or a different number than
        in the previous pass.
        """
        with differentiable(self.model):
            return cached_pass(lambda: self._mean(of_batch)).to(self.device)

    def _mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        return self.weighted_mean(self.each_batch(of_batch))

    def each_batch(
        self, of_batch: Callable[[Tensor], T], examples: Iterable[tuple[Any, Any]] | None = None
    ) -> Iterator[tuple[float, T]]:
        """Yield the weight of each batch, and the result of ``of_batch`` for its loss.

        ``examples`` replaces ``batches``: pairs on the model's device.
        """
        for inputs, targets in examples or self.batches:
            weight = check_weight(self.weight(inputs, targets))
            if not weight:
                continue
            # Caches may hold weights from another point, or a graph that a backward pass has freed.
            clear_weight_caches()
            yield weight, of_batch(batch_loss(self.loss, forward(self.model, inputs), targets, inputs))

    def weighted_mean(self, parts: Iterable[tuple[float, Sequence[Tensor]]]) -> Tensor:
        """The mean over all examples of ``parts``, each batch's weight and tensors. Raises ValueError as `mean`."""
        sums: Tensor | None = None
        examples = 0.0
        for weight, tensors in parts:
            values = concatenate(tensors)
            sums = torch.zeros_like(values, dtype=torch.float64) if sums is None else sums
            sums.add_(values, alpha=weight)
            examples += weight
        if sums is None and not self.examples:
            raise ValueError(NOTHING_TO_MEASURE)
        if sums is None or (self.examples and not math.isclose(self.examples, examples)):
            raise ValueError(
                f"batches: {examples:.12g} examples in this pass, {self.examples:.12g} in the previous one; must be the"
                " same examples at every pass"
            )
        self.examples = examples
        return sums.div_(examples)

    def with_gradient(self) -> Tensor:
        """The mean loss followed by its gradient with respect to the parameters, shape (1 + n,)."""
        return self.mean(lambda loss: [loss, *self._gradient(loss)])

    def check_deterministic(self, first: Tensor) -> None:
        """Raise ValueError if another pass differs from ``first``, the result of `with_gradient` at these weights.

        Augmentation, dropout or a dropped last batch would be mistaken for the shape of the loss. The tolerance allows
        a different order of examples, or of additions on the device. It is relative to the losses and gradients of
        single batches, because their mean may be 0.
        """

        def with_sizes(loss: Tensor) -> Sequence[Tensor]:
            gradient = self._gradient(loss)
            return [loss, *gradient, loss.abs(), concatenate([part.norm() for part in gradient]).norm()]

        *second, loss_size, gradient_size = torch.split(self.mean(with_sizes), [1, len(first) - 1, 1, 1])
        tolerances = {
            "loss": loss_tolerance(self.rounding) * loss_size,
            "gradient": math.sqrt(self.rounding) * gradient_size,
        }
        for before, after, (what, tolerance) in zip((first[:1], first[1:]), second, tolerances.items(), strict=True):
            if (before - after).norm() > tolerance:
                refuse_randomness(what)
        self._check_reached(first[1:], tolerances["loss"])

    def _check_reached(self, gradient: Tensor, tolerance: Tensor) -> None:
        """Raise ValueError for a parameter that changes the loss although no gradient reaches it."""
        parts = torch.split(gradient, [p.numel() for p in self.parameters])
        moving = torch.stack([part.any() for part in parts]).tolist()
        unreached = [p for p, moves in zip(self.parameters, moving, strict=True) if not moves]
        if not unreached:
            return

        def note_reached(loss: Tensor) -> list[Tensor]:
            gradients = zip(list(unreached), gradient_or_none(loss, list(unreached)), strict=True)
            reached.update(id(parameter) for parameter, gradient in gradients if gradient is not None)
            return [loss]

        def changes_loss(*chosen: Tensor) -> bool:
            before = [parameter.detach().clone() for parameter in chosen]
            with unwatched(chosen):
                try:
                    with torch.no_grad():
                        for parameter in chosen:  # in random directions: a loss may ignore a shift of all entries
                            generator = make_generator(0, "unreached")
                            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
                            parameter.add_(noise.to(parameter) * (1.0 + parameter.abs()))
                    return not (self.mean(lambda loss: [loss]) - center).abs() <= tolerance
                finally:
                    with torch.no_grad():
                        torch._foreach_copy_(chosen, before)

        reached = set[int]()
        with without_pass_cache():  # a cached pass has no autograd information
            center = self.mean(note_reached)
            unreached = [parameter for parameter in unreached if id(parameter) not in reached]
            if not unreached or not changes_loss(*unreached):
                return
            first = next((parameter for parameter in unreached if changes_loss(parameter)), unreached[0])
        name = next(name for name, parameter in self.model.named_parameters() if parameter is first)
        raise ValueError(
            f"model: no gradient reaches {name}, which changes the loss (reentrant checkpointing, detach, no_grad);"
            " remove the cause (use_reentrant=False), or set requires_grad_(False) on parameters that must stay fixed"
        )

    def _gradient(self, loss: Tensor) -> list[Tensor]:
        pairs = zip(gradient_or_none(loss, self.parameters), self.parameters, strict=True)
        return to_dense([torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs])


def gradient_or_none(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    """The gradient with respect to each parameter; None if autograd finds no path from the loss to it.

    Raises ValueError for reentrant activation checkpointing.
    """
    if not loss.requires_grad:
        return [None] * len(parameters)
    try:
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError("model: uses reentrant activation checkpointing; set use_reentrant=False") from error
        raise


def refuse_randomness(what: str) -> NoReturn:
    """Raise ValueError because ``what`` differs between two passes."""
    raise ValueError(
        f"model, batches: two passes differ in the {what}; turn off augmentation, drop_last of a shuffled loader, and"
        " other randomness"
    )


def to_dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Make sparse ``gradients`` (of an embedding) dense."""
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]


def machine_epsilon(parameters: Iterable[Tensor]) -> float:
    """The machine epsilon of the coarsest floating-point or complex dtype among ``parameters``; 0 if there is none."""
    inexact = {p.dtype for p in parameters if p.is_floating_point() or p.is_complex()}
    return max((torch.finfo(dtype).eps for dtype in inexact), default=0.0)


def rounding_of(model: nn.Module) -> float:
    """The machine epsilon of passes of ``model``: of its coarsest parameter, or of autocast if it is enabled."""
    epsilon = machine_epsilon(model.parameters())
    for kind in {parameter.device.type for parameter in model.parameters()}:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            epsilon = max(epsilon, torch.finfo(torch.get_autocast_dtype(kind)).eps)
    return epsilon


def loss_tolerance(eps: float) -> float:
    """The allowed relative difference of mean losses over the same examples in a different order.

    ``eps`` is the machine epsilon of a pass.
    """
    return min(100 * eps, math.sqrt(eps))


def check_width(parameters: Iterable[Tensor], **widths: object) -> list[float]:
    """The relative ``widths`` of regions as floats. Raises ValueError for one that ``parameters`` cannot resolve."""
    checked = check_positive(**widths)
    least = machine_epsilon(parameters)
    for name, width in zip(widths, checked, strict=True):
        if width < least:
            raise ValueError(f"{name}: must be at least {least:.2g}, the rounding of the weights, not {width!r}")
    return checked
