"""Methods with several passes per batch: one context around the forward and backward computation of each pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.nn.batchnorm import freeze_running_stats
from smoothout.nn.late_backward import FRAMEWORKS
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
        updates_statistics: whether the pass updates BatchNorm's running statistics.
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
        updates_statistics: bool = True,
        on_gradient: Callable[[Gradient], None] | None = None,
    ) -> None:
        self._model, self._scale, self._on_gradient = model, scale, on_gradient
        self.updates_statistics = updates_statistics
        self._context = context
        self._inside: ExitStack | None = None
        self._saved: list[tuple[Tensor, Tensor] | None] | None = None  # earlier gradients, each with its values
        self._of_batch: Sequence[Pass] = (self,)  # all passes of the batch

    @property
    def at_clean_weights(self) -> bool:
        """Whether the pass is at the model's own weights."""
        return self._context is None

    def __enter__(self) -> Pass:
        if any(block._inside is not None for block in self._of_batch):
            raise RuntimeError(f"a block of this batch is already entered: leave it before the next one; {FRAMEWORKS}")
        self._parameters = find_parameters(self._model)
        self._saved = None
        with ExitStack() as stack:
            stack.push(self._finish)  # is called last, at the restored weights
            if not self.updates_statistics:
                stack.enter_context(freeze_running_stats(self._model))
            if self._context is not None or not self.backward_only:
                stack.enter_context(CleanWeights(self._model) if self._context is None else self._context)
            if self._scale != 1:
                self._prepare_gradients()
            self._inside = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        stack, self._inside = self._inside, None
        if stack is not None:
            stack.__exit__(*error)

    @untracked()
    def _prepare_gradients(self) -> None:
        """Empty ``grad`` for scale 0, and otherwise divide it by the scale, by which `_finish` multiplies the sum.

        Earlier gradients stay in ``grad``, because DDP reduces those of earlier batches (`no_sync`) with this pass's.
        They are the same tensors before, within and after the block, as programs may hold views of them.
        """
        gradients = [parameter.grad for parameter in self._parameters]
        self._saved = [None if gradient is None else (gradient, gradient.clone()) for gradient in gradients]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if self._scale == 0:
                parameter.grad = None
            elif gradient is not None:
                gradient.div_(self._scale)

    @untracked()
    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Scale the sum of the gradients; after an error or for scale 0, restore the earlier ones."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        gradients = [parameter.grad for parameter in self._parameters]
        if kind is None and self._scale != 0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(self._scale)
            return
        found = [None if g is None else _apart(g, before) for g, before in zip(gradients, saved, strict=True)]
        for parameter, before in zip(self._parameters, saved, strict=True):
            parameter.grad = None if before is None else before[0].copy_(before[1])
        if kind is None and self._on_gradient is not None:
            self._on_gradient(found)


def _apart(gradient: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    """``gradient``, copied if later passes write to its memory: DDP's bucket (a view), or the earlier gradient."""
    if gradient.layout is not torch.strided:
        return gradient
    shared = gradient._is_view() or (before is not None and gradient.data_ptr() == before[0].data_ptr())
    return gradient.clone() if shared else gradient


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
