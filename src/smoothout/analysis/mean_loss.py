"""Metrics of a network at one set of weights: a classifier's loss and accuracy, or the mean of another loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.analysis.batch_loss import Loss, Weight, batch_loss, batch_size, check_weight
from smoothout.analysis.empirical_risk import NOTHING_TO_MEASURE, loss_tolerance, refuse_randomness, rounding_of
from smoothout.analysis.models import FIRST_PASSES, keeping_weights
from smoothout.common.pass_cache import without_pass_cache
from smoothout.nn.batches import Batches, Examples, carried, check_batches, logits_in
from smoothout.nn.evaluation import (
    AllReduce,
    ClassificationMetrics,
    EvalResult,
    MetricAccumulator,
    evaluate,
)
from smoothout.nn.parameters import in_float64

CROSS_ENTROPY_EPS = torch.finfo(torch.float32).eps  # its sum over a batch is in float32, whatever the model's dtype


class MeanLoss:
    """The weighted mean of ``loss`` over batches; None uses the loss in the outputs.

    The accuracy is nan.
    """

    def __init__(self, loss: Loss | None, weight: Weight) -> None:
        self._loss, self._weight = loss, weight
        self._sum: Tensor | float = 0.0
        self._sizes: Tensor | float = 0.0
        self._total = 0.0

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None:
        """Add a batch. Raises ValueError for a loss that is not one number, or an impossible weight."""
        if weight := check_weight(self._weight(inputs, targets)):
            loss = in_float64(batch_loss(self._loss, outputs, targets, inputs))
            self._sum, self._sizes = self._sum + weight * loss, self._sizes + weight * loss.abs()
            self._total += weight

    def compute(self, all_reduce: AllReduce = lambda sums: None) -> EvalResult:
        """The mean so far. Raises ValueError if there were no batches, or all have weight 0."""
        sums = torch.tensor([float(self._sum), self._total], dtype=torch.float64, device="cpu")
        all_reduce(sums)
        loss, total = sums.tolist()
        if not total:
            raise ValueError(NOTHING_TO_MEASURE)
        return EvalResult(loss / total, math.nan)

    @property
    def size(self) -> float:
        """The mean so far of the losses' absolute values, because a mean of losses of both signs may be near 0."""
        return float(self._sizes) / self._total


class OwnMetrics:
    """Metrics for a model without ``loss=``: the loss in its outputs, or otherwise a classifier's cross entropy.

    The accuracy is nan unless outputs are or contain logits (examples, classes) for single labels. If they contain a
    loss, invalid labels (such as ignored ones) do not count.
    """

    def __init__(self, weight: Weight | None) -> None:
        self._weight = weight
        self._loss: MeanLoss | None = None
        self._classes: ClassificationMetrics | None = None

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None:
        """Add a batch. Raises ValueError for a weight without a loss, and as `ClassificationMetrics`."""
        logits = logits_in(outputs)
        if carried(outputs, "loss") is not None:
            self._loss = self._loss or MeanLoss(None, self._weight or batch_size)
            self._loss.update(outputs, targets, inputs)
        elif self._weight is not None:
            raise ValueError("weight: needs a loss; without one, every example of a classifier counts the same")
        if self._loss is None or single_labels(logits, targets):
            self._classes = self._classes or ClassificationMetrics(ignore_others=self._loss is not None)
            self._classes.update(logits, targets)

    def compute(self, all_reduce: AllReduce = lambda sums: None) -> EvalResult:
        """The means so far. Raises ValueError as the metrics that it uses."""
        classes = self._classes or (None if self._loss else ClassificationMetrics())
        measured = EvalResult(math.nan, math.nan) if classes is None else classes.compute(all_reduce)
        return measured if self._loss is None else measured._replace(loss=self._loss.compute(all_reduce).loss)

    @property
    def size(self) -> float:
        """As in `MeanLoss`; 0 for the cross entropy, which has one sign."""
        return self._loss.size if self._loss else 0.0


def single_labels(logits: Any, targets: Any) -> bool:
    """Whether these are logits (examples, classes), of two classes or more, and a whole-numbered label per example."""
    if not (isinstance(logits, Tensor) and isinstance(targets, Tensor)) or targets.is_floating_point():
        return False
    return logits.dim() == 2 and logits.shape[1] > 1 and targets.shape == logits.shape[:1]


class Measurement:
    """Measure loss and accuracy on ``batches`` with ``loss`` and ``weight``, or without a loss as `OwnMetrics`.

    ``model`` has the architecture of the measured networks. The first finite loss is measured twice. Raises ValueError
    if the two differ, because changing batches or a random network would be mistaken for the shape of the loss. Also
    raises it for a network that rewrites its weights.
    """

    def __init__(self, model: nn.Module, batches: Batches, loss: Loss | None, weight: Weight | None) -> None:
        check_batches("batches", batches)
        self.examples = Examples("batches", batches, model)
        self.metrics: Callable[[], MeanLoss | OwnMetrics]
        self.metrics = partial(OwnMetrics, weight) if loss is None else partial(MeanLoss, loss, weight or batch_size)
        self._checked, self._passes = False, 0

    def __call__(self, network: nn.Module) -> EvalResult:
        """The metrics of ``network`` in evaluation mode."""
        result = self._evaluate(network)
        if not self._checked and math.isfinite(result.loss):
            self.check(network, result)
        return result

    def check(self, network: nn.Module, first: EvalResult | None = None) -> None:
        """Raise ValueError if another pass gives a different loss than ``first`` (None measures it first)."""
        with without_pass_cache():
            first = first or self._evaluate(network)
            metrics = self.metrics()
            difference = abs(self._evaluate(network, lambda: metrics).loss - first.loss)
        tolerance = loss_tolerance(max(rounding_of(network), CROSS_ENTROPY_EPS))
        if difference > tolerance * abs(first.loss) and difference > tolerance * metrics.size:
            refuse_randomness("loss")
        self._checked = True

    def _evaluate(self, network: nn.Module, metrics: Callable[[], MetricAccumulator] | None = None) -> EvalResult:
        self._passes += 1
        with keeping_weights(network) if self._passes <= FIRST_PASSES else nullcontext():
            return evaluate(network, self.examples, metrics_class=metrics or self.metrics)
