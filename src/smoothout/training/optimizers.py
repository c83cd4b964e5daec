"""The optimizers of the papers: those of torch, with the settings in which the protocols differ.

Importable without torch: ``build`` imports it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import check_number, check_positive

if TYPE_CHECKING:
    import torch
    from torch import nn


class Epsilon(StrEnum):
    """Whether Adam adds epsilon to the root of the second moment after bias correction, or before."""

    corrected = "corrected"
    uncorrected = "uncorrected"


@dataclass(frozen=True)
class Optimizer(ABC):
    """The settings of an optimizer; a frozen dataclass derives from it."""

    lr: float  # at the start
    weight_decay: float = 0.0  # L2 term added to the gradient of every parameter, taken at the clean weights
    clip_norm: float | None = None  # largest L2 norm of an update's gradient over all parameters; None does not clip
    reset_every_epoch: bool = False  # start every epoch with a new optimizer, as the released program does

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_number("weight_decay", self.weight_decay, lambda decay: decay >= 0, "be a finite number >= 0")
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm, hint="use null for no clipping")

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer of ``parameters``."""

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold a step: all numbers that change are on the device and start at zero."""
        return False

    @property
    def has_momentum(self) -> bool:
        """Whether a step follows an average of past gradients, which MSAM needs."""
        return False


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with torch's defaults for everything but the learning rate, the L2 term and where epsilon is added.

    ``epsilon=corrected`` is Algorithm 1 of Kingma and Ba, and torch today. ``uncorrected`` is torch up to 1.2 (changed
    by pytorch/pytorch#22628), which the released program used: update t has epsilon / sqrt(1 - beta2^t) instead of
    epsilon, 3.2e-7 instead of 1e-8 in the first update.
    """

    epsilon: Epsilon = Epsilon.corrected

    def __post_init__(self) -> None:
        super().__post_init__()
        coerce_enum_fields(self)

    @property
    def capturable(self) -> bool:
        """Not with ``uncorrected``: its epsilon is a Python number that changes, and a graph would keep the first."""
        return self.epsilon is Epsilon.corrected

    @property
    def has_momentum(self) -> bool:
        """Always."""
        return True

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer; the fused step computes the same formula several times faster."""
        import torch  # noqa: PLC0415

        optimizer = torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.epsilon is Epsilon.uncorrected:
            uncorrected = _Uncorrected()
            optimizer.register_step_pre_hook(uncorrected)
            optimizer.register_load_state_dict_post_hook(uncorrected.forget)
        return optimizer


class _Uncorrected:
    """Sets epsilon before each step. All parameters of a group must have taken the same number of steps.

    The number is read from the device once, then counted on the host.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []  # number of steps of each group

    def __call__(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        groups = optimizer.param_groups
        self._steps = self._steps or [_steps_done(optimizer, group["params"]) for group in groups]
        for index, group in enumerate(groups):
            self._steps[index] += any(p.grad is not None for p in group["params"])
            group["eps"] = optimizer.defaults["eps"] / math.sqrt(1 - group["betas"][1] ** max(self._steps[index], 1))

    def forget(self, optimizer: torch.optim.Optimizer) -> None:
        """Read the number of steps again, because a state was loaded."""
        self._steps = []


def _steps_done(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> int:
    """How many steps ``parameters`` have taken; waits for the device."""
    return int(next((state["step"] for p in parameters if (state := optimizer.state.get(p))), 0))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum."""

    recorded_as: ClassVar[str] = "Momentum"

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: must lie in [0, 1), not {self.momentum}")

    @property
    def capturable(self) -> bool:
        """Always."""
        return True

    @property
    def has_momentum(self) -> bool:
        """True unless ``momentum`` is 0."""
        return self.momentum > 0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer."""
        import torch  # noqa: PLC0415

        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
