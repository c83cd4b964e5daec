"""What is measured of a network at a point: a classifier's loss and accuracy, or the mean of any other loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smoothout.analysis.empirical_risk import Loss, Weight, batch_size, checked_loss, checked_weight
from smoothout.nn.evaluation import AllReduce, ClassificationMetrics, EvalResult, MetricAccumulator
from smoothout.nn.parameters import in_float64


class MeanLoss:
    """The mean of ``loss``, each batch counting as ``weight`` says; an accuracy it has none (nan)."""

    def __init__(self, loss: Loss, weight: Weight) -> None:
        self._loss, self._weight = loss, weight
        self._sum: Tensor | float = 0.0
        self._total = 0.0

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None:
        """Count a batch. Raises ValueError for a loss that is not one number, and a weight that is none."""
        if share := checked_weight(self._weight(inputs, targets)):
            self._sum = self._sum + share * in_float64(checked_loss(self._loss(outputs, targets)))
            self._total += share

    def compute(self, add_up: AllReduce = lambda sums: None) -> EvalResult:
        """The mean so far. Raises ValueError when nothing was counted."""
        sums = torch.tensor([float(self._sum), self._total], dtype=torch.float64)
        add_up(sums)
        loss, total = sums.tolist()
        if not total:
            raise ValueError("batches: nothing to measure, all of them weigh 0")
        return EvalResult(loss / total, math.nan)


def accumulator_for(loss: Loss | None, weight: Weight | None) -> Callable[[], MetricAccumulator]:
    """Makes what counts ``loss``, or a classifier's loss and right answers where that is None.

    Raises ValueError for a weight without a loss.
    """
    if loss is not None:
        return partial(MeanLoss, loss, weight or batch_size)
    if weight is not None:
        raise ValueError("weight: belongs to a loss; without one, every example of a classifier counts the same")
    return ClassificationMetrics
