"""Methods with several passes per batch: one context around the forward and backward computation of each pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from smoothout.common.enums import parse_enum
from smoothout.nn.batchnorm import freeze_running_stats
from smoothout.nn.late_backward import FRAMEWORKS
from smoothout.nn.options import StatisticsFrom
from smoothout.nn.weight_context import WeightContext, find_parameters, untracked

Gradient = list[Tensor | None]


class CleanWeights(WeightContext):
    """A context where ``model`` holds a copy of w, so that it detects the same errors as other contexts."""

    def _moved(self) -> list[Tensor]:
        self.parameters = find_parameters(self._model)
        return [parameter.detach().clone() for parameter in self.parameters]


class Pass:
    """A block around one pass of a batch, which adds ``scale`` times the pass's gradient to ``grad``.

    Args:
        model: the model.
        scale: factor of the pass's gradient; 0 passes it only to ``on_gradient``.
        context: sets the weights of the pass; None means the clean weights.
        feeds_statistics: whether the pass updates BatchNorm's running statistics.
        on_gradient: called at the end of a pass with scale 0, with its gradient (None for a parameter without one).

    A pass at the clean weights uses a copy of them (`CleanWeights`). With ``backward_only``, it uses the weights
    themselves, and the block is only around the backward computation.
    """

    backward_only = False

    def __init__(
        self,
        model: nn.Module,
        scale: float,
        *,
        context: WeightContext | None = None,
        feeds_statistics: bool = True,
        on_gradient: Callable[[Gradient], None] | None = None,
    ) -> None:
        self._model, self._scale, self._feeds, self._on_gradient = model, scale, feeds_statistics, on_gradient
        self._context = context
        self._inside: ExitStack | None = None
        self._of_batch: Sequence[Pass] = (self,)  # all passes of the batch

    @property
    def at_clean_weights(self) -> bool:
        """Whether the pass is at the model's own weights."""
        return self._context is None

    @property
    def feeds_statistics(self) -> bool:
        """Whether the pass updates BatchNorm's running statistics."""
        return self._feeds

    def __enter__(self) -> Pass:
        if any(block._inside is not None for block in self._of_batch):
            raise RuntimeError(f"a block of this batch is already entered: leave it before the next one; {FRAMEWORKS}")
        self._parameters = find_parameters(self._model)
        with ExitStack() as stack:
            if not self._feeds:
                stack.enter_context(freeze_running_stats(self._model))
            if self._context is not None or not self.backward_only:
                stack.enter_context(CleanWeights(self._model) if self._context is None else self._context)
            if self._scale != 1:
                self._before = self._copy_gradients()
                stack.callback(self._set, self._before)  # always restores the earlier gradients at the end
                self._set([None] * len(self._parameters) if self._scale == 0 else self._divided(self._before))
            self._inside = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        gradient = [parameter.grad for parameter in self._parameters]
        stack, self._inside = self._inside, None
        if stack is not None:
            stack.__exit__(*error)
        if any(error):
            return
        if self._scale not in (0, 1):
            self._set_scaled(gradient)
        if self._scale == 0 and self._on_gradient is not None:
            self._on_gradient(gradient)

    @untracked()
    def _copy_gradients(self) -> Gradient:
        # With DDP's gradient_as_bucket_view, gradients are views of memory that the next backward pass overwrites.
        return [None if parameter.grad is None else parameter.grad.clone() for parameter in self._parameters]

    def _set(self, gradients: Gradient) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    @untracked()
    def _divided(self, gradients: Gradient) -> Gradient:
        """``gradients`` divided by the scale; at the end, their sum with the pass's gradient is multiplied by it.

        They stay in ``grad`` in between, because DDP reduces those of earlier batches (`no_sync`) with this pass's.
        """
        return [None if gradient is None else gradient / self._scale for gradient in gradients]

    @untracked()
    def _set_scaled(self, gradients: Gradient) -> None:
        self._set([None if gradient is None else gradient.mul_(self._scale) for gradient in gradients])


class Passes(Sequence[Pass]):
    """The blocks of a batch's passes, one after another.

        for block in SAM(model, rho=0.05):
            with block:
                F.cross_entropy(model(x), y).backward()
        optimizer.step(); optimizer.zero_grad()

    Gradients are added to ``grad``: they accumulate over batches as usual, and a gradient scaler scales all of them.
    """

    def __init__(self, *passes: Pass) -> None:
        self._passes = passes
        for block in passes:
            block._of_batch = passes

    def __len__(self) -> int:
        return len(self._passes)

    def __getitem__(self, index: Any) -> Any:
        return self._passes[index]


def feeding_passes(statistics_from: StatisticsFrom | str) -> tuple[bool, bool]:
    """Whether the pass at the clean weights, and the one at perturbed weights, update running statistics."""
    choice = parse_enum(StatisticsFrom, "statistics_from", statistics_from)
    return choice is not StatisticsFrom.perturbed, choice is not StatisticsFrom.clean
