"""Metrics of a network at one set of weights: a classifier's loss and accuracy, or the mean of another loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smoothout.analysis.empirical_risk import Loss, Weight, batch_size, check_loss, check_weight
from smoothout.nn.evaluation import AllReduce, ClassificationMetrics, EvalResult, MetricAccumulator
from smoothout.nn.parameters import in_float64


class MeanLoss:
    """The mean of ``loss`` over batches, each with its ``weight``; the accuracy is nan."""

    def __init__(self, loss: Loss, weight: Weight) -> None:
        self._loss, self._weight = loss, weight
        self._sum: Tensor | float = 0.0
        self._total = 0.0

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None:
        """Count a batch. Raises ValueError for a loss that is not one number, or an impossible weight."""
        if weight := check_weight(self._weight(inputs, targets)):
            self._sum = self._sum + weight * in_float64(check_loss(self._loss(outputs, targets)))
            self._total += weight

    def compute(self, all_reduce: AllReduce = lambda sums: None) -> EvalResult:
        """The mean so far. Raises ValueError when nothing was counted."""
        sums = torch.tensor([float(self._sum), self._total], dtype=torch.float64)
        all_reduce(sums)
        loss, total = sums.tolist()
        if not total:
            raise ValueError("batches: nothing to measure, all of them have weight 0")
        return EvalResult(loss / total, math.nan)


def accumulator_for(loss: Loss | None, weight: Weight | None) -> Callable[[], MetricAccumulator]:
    """A factory of accumulators of ``loss``, or of a classifier's cross entropy and accuracy if that is None.

    Raises ValueError for a weight without a loss.
    """
    if loss is not None:
        return partial(MeanLoss, loss, weight or batch_size)
    if weight is not None:
        raise ValueError("weight: needs a loss; without one, every example of a classifier counts the same")
    return ClassificationMetrics
