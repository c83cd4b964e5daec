"""Conservative training: several steps on each batch, with a penalty on the distance from its initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.nn.options import check_number
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Conservative(Method):
    """Settings of conservative training; without a penalty, each batch is only used several times."""

    penalty: float = 1e-3  # lambda: weight of the squared distance from the weights before the batch
    iterations: int = 3  # steps of the optimizer per batch

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, lambda penalty: penalty >= 0, "be a finite number >= 0")
        if self.iterations < 2:
            raise ValueError(
                f"iterations: must be at least 2, not {self.iterations}; the penalty has no gradient at the first one:"
                " use method=none for plain training"
            )

    @property
    def slug(self) -> str:
        """Name, penalty and iterations."""
        return f"conservative{self.penalty:g}x{self.iterations}"

    @property
    def passes(self) -> float:
        """One pass for each iteration."""
        return self.iterations

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """The gradient estimator of conservative training for ``model``."""
        return ProximalGradient(model, self.penalty, self.iterations)


class ProximalGradient(GradientEstimator):
    """[Keskar Eq. 5] x_{k+1} = argmin f_B(x) + lambda ||x - x_k||^2, approximately: a few steps from x_k.

    The paper takes "3 iterations of Adam", and trains with Adam throughout. The steps here use the training's optimizer
    and keep its state from batch to batch. A new Adam for every batch would move each weight by about the learning rate
    per step, however small its gradient, and would not converge. f_B is the same function for all steps: the same
    examples, augmentation and dropout masks. Each step updates BatchNorm's running statistics. The recorded loss is
    that at x_k.
    """

    def __init__(self, model: nn.Module, penalty: float, iterations: int) -> None:
        from smoothout.nn.parameters import trainable_parameters  # noqa: PLC0415 (settings are read without torch)

        self.steps_per_batch, self._penalty = iterations, penalty
        self._parameters = trainable_parameters(model)
        self._start = [parameter.detach().clone() for parameter in self._parameters]  # x_k

    def begin_update(self, update: int) -> None:
        """Remember the weights before the batch, in the same memory: a CUDA graph reads it."""
        for start, parameter in zip(self._start, self._parameters, strict=True):
            start.copy_(parameter.detach())

    def before_step(self) -> None:
        """Add the gradient of the penalty, 2 lambda (x - x_k)."""
        for start, parameter in zip(self._start, self._parameters, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=2 * self._penalty)
