"""Adversarial training: half of the loss is on images perturbed by the fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smoothout.nn.options import check_positive
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan

if TYPE_CHECKING:
    from torch import nn

    from smoothout.training.update import GhostBatch


@dataclass(frozen=True)
class Adversarial(Method):
    """Settings of adversarial training."""

    epsilon: float = 0.25  # change of each pixel, after normalization by the data's mean and standard deviation

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon, hint="use method=none for plain training")

    @property
    def slug(self) -> str:
        """Name and distance."""
        return f"adversarial{self.epsilon:g}"

    @property
    def passes(self) -> float:
        """Two."""
        return 2

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        """Adversarial training of ``model``."""
        return AdversarialGradient(model, self.epsilon)


class AdversarialGradient(GradientEstimator):
    """[Goodfellow 2015, Sec. 6] The gradient of J(x) / 2 + J(x + epsilon sign(dJ/dx)) / 2.

    One backward pass gives the gradient of the first half and the sign of dJ/dx, which is treated as a constant.
    Perturbed images are not clipped to the pixel range. The recorded loss and accuracy are means over both halves,
    which have the same dropout masks. BatchNorm normalizes each half separately. Its running statistics are those of
    the original images, because the network is tested on such images.
    """

    forward_passes = 2

    def __init__(self, model: nn.Module, epsilon: float) -> None:
        self._model, self._epsilon = model, epsilon

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Backpropagate from the images, perturb them, and backpropagate again."""
        from smoothout.nn.batchnorm import freeze_running_stats  # noqa: PLC0415 (settings are read without torch)

        images = ghost_batch.inputs.requires_grad_()
        ghost_batch.backward(passes=2)
        assert images.grad is not None
        ghost_batch.inputs = images.detach() + self._epsilon * images.grad.sign()
        ghost_batch.seed_dropout(ghost_batch.index)
        with freeze_running_stats(self._model):
            ghost_batch.backward(passes=2)
