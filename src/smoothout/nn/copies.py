"""Deterministic SmoothOut: the loss averaged over N perturbed copies of a model, all of the same weights w."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from smoothout.common.integers import whole_number
from smoothout.common.rng import make_generator
from smoothout.nn.perturbation import SmoothOut


class SmoothOutCopies(Sequence[AbstractContextManager[SmoothOut]]):
    """[SmoothOut Eq. 1] Deterministic SmoothOut: N perturbations, drawn once, of one shared w.

        copies = SmoothOutCopies(SmoothOut(model, a=0.0375), copies=4)
        for x, y in loader:
            for copy in copies:
                with copy:
                    (F.cross_entropy(model(x), y) / len(copies)).backward()
            optimizer.step(); optimizer.zero_grad()

    Each theta has a separate seed and is drawn again at every entry instead of being stored. The time of an update
    grows with N, memory does not. A copy must be left before the next one is entered.

    Args:
        context: the model and its noise; must have ``denoise=True``.
        copies: N.
        seed: seed of the N thetas.

    Raises:
        TypeError: if ``context`` is not a SmoothOut.
        ValueError: for a ``context`` with ``denoise=False``, which would let w drift, or fewer than one copy.
    """

    def __init__(self, context: SmoothOut, copies: int, seed: int = 0) -> None:
        if not isinstance(context, SmoothOut):
            raise TypeError(f"context: must be a SmoothOut(model, a), not a {type(context).__name__}")
        if not context.denoise:
            raise ValueError("context: copies share one w, so their noise must be removed; use denoise=True")
        self._context = context
        self._copies, self._seed = whole_number("copies", copies, 1), whole_number("seed", seed)

    def __len__(self) -> int:
        return self._copies

    def __getitem__(self, index: Any) -> Any:
        selected = range(self._copies)[index]
        if isinstance(selected, range):
            return [self[i] for i in selected]
        return _Copy(self._context, self._seed, selected)


@dataclass(frozen=True)
class _Copy:
    """One of the N copies, which draws its theta from the same seed at every entry."""

    context: SmoothOut
    seed: int
    index: int

    def __enter__(self) -> SmoothOut:
        self.context.follow_model()  # updates the device
        before = self.context.generator
        self.context.generator = make_generator(self.seed, "copy", self.index, device=self.context.device)
        try:
            return self.context.__enter__()
        finally:
            self.context.generator = before

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.context.__exit__(*error)
