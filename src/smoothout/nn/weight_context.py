"""Base class of the contexts that change a model's weights: SmoothOut, SAM and other methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from smoothout.nn.guards import check_layers, check_modules
from smoothout.nn.late_backward import FRAMEWORKS, LateBackward
from smoothout.nn.parameters import select_trainable
from smoothout.nn.swapped import SwappedWeights


@contextmanager
def untracked() -> Iterator[None]:
    """Inside, autograd records nothing, and new tensors are normal ones even within `torch.inference_mode`."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class WeightContext(ABC):
    """A context where the trainable ``parameters`` of ``model`` hold other weights, computed at every entry.

    Outside, they hold exactly the clean weights. See `SmoothOut` for other guarantees and errors.
    """

    parameters: list[nn.Parameter]

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._entered = False
        self._swapped: SwappedWeights | None = None
        self._guards: list[RemovableHandle] = []

    @abstractmethod
    def _moved(self) -> Sequence[Tensor]:
        """The weights inside: a tensor per parameter, with its strides, in memory of this context."""

    @untracked()
    def __enter__(self) -> Self:
        self._check_left()
        weights = self._moved()  # an optimizer may rely on their strides
        try:
            self._entered = True
            _entered_contexts.append(self)
            self._guards.extend(LateBackward.register(self._model, self))
            self._swapped = SwappedWeights(self._model, self.parameters, weights)
            self._swapped.__enter__()
        except BaseException:  # an interrupt: the block is never entered, so nothing else would restore the weights
            self.__exit__(BaseException)
            raise
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._leave(*error)
        except BaseException:  # an interrupt during the restoration
            self._leave(*error)
            raise

    def _leave(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Restore the clean weights; can be repeated after an interruption anywhere."""
        if self in _entered_contexts:
            _entered_contexts.remove(self)
        for guard in self._guards:
            guard.remove()
        self._guards.clear()
        if self._swapped is not None:
            self._swapped.__exit__(*error)
        self._swapped, self._entered = None, False

    def _check_left(self) -> None:
        if self._entered:
            raise RuntimeError(
                f"this {type(self).__name__} context is already entered: leave it first (to perturb twice, use two);"
                f" {FRAMEWORKS}"
            )

    @property
    def block(self) -> object:
        """An object that identifies the current block; None outside."""
        return self._swapped

    def inner_blocks(self) -> list[object]:
        """Objects that identify the blocks around some of the same weights that were entered later, within this one."""
        return [] if self._swapped is None else self._swapped.inner_blocks()

    @property
    def clean_weights(self) -> list[Tensor]:
        """Inside the context: w, a tensor for each of ``parameters``, in its shape.

        Raises RuntimeError outside, and inside a context with ``denoise=False``, which does not keep w.
        """
        if self._swapped is None:
            raise RuntimeError("clean weights exist only inside a context with denoise=True")
        return self._swapped.clean

    def current_noise(self) -> list[Tensor]:
        """Inside the context: theta, to the rounding of w + theta; new tensors in the shapes of ``parameters``.

        Raises RuntimeError as `clean_weights`.
        """
        return list(torch._foreach_sub([p.detach() for p in self.parameters], self.clean_weights))


_entered_contexts: list[WeightContext] = []  # of all threads


def _refuse_step(optimizer: torch.optim.Optimizer, *arguments: object) -> None:
    """Raise RuntimeError if ``optimizer`` would update weights of an entered block."""
    for context in tuple(_entered_contexts):  # a copy: other threads may enter and leave contexts meanwhile
        perturbed = {id(parameter) for parameter in context.parameters}
        if any(id(p) in perturbed for group in optimizer.param_groups for p in group["params"]):
            raise RuntimeError(
                f"optimizer.step() belongs after the block, which restores the clean weights at its end; {FRAMEWORKS}"
            )


# Registered once, not at every entry: torch has one dict of these hooks for all threads, and step() raises an error if
# another thread changes it meanwhile. The list of contexts is not per thread either, because on CUDA a hook that calls
# step() in the backward pass runs in an autograd thread.
register_optimizer_step_pre_hook(_refuse_step)


def find_parameters(model: nn.Module, batchnorm: bool = True) -> list[nn.Parameter]:
    """As `trainable_parameters`, but without checking each weight, which is needed only for new ones."""
    modules = check_layers(model)
    check_modules(model, modules)
    return select_trainable(modules, batchnorm)
