"""The loss of a batch, and its weight in a mean over all examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from smoothout.nn.batches import LABELS, carried, logits_in
from smoothout.nn.forward import Keywords

Loss = Callable[[Any, Any], Tensor]  # of (outputs, targets): the mean over the examples of a batch
Weight = Callable[[Any, Any], float]  # of (inputs, targets): how many examples a batch counts as; 0 skips it


def batch_loss(loss: Loss | None, outputs: Any, targets: Any, inputs: Any) -> Tensor:
    """The loss of a batch, a tensor with one element: ``loss(outputs, targets)``, or the loss in the outputs for None.

    If the batch is a mapping, ``loss`` gets the logits in the outputs. Raises TypeError if ``loss`` is not a function,
    and ValueError if outputs carry no loss, a mapping has no labels, or the loss is not one number.
    """
    if loss is None:
        value = carried(outputs, "loss")
        if value is None:
            form = type(outputs).__name__
            raise ValueError(
                f"loss: is needed, because the model's outputs ({form}) carry none; pass loss(outputs, targets)"
            )
        return check_loss(value)
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"loss: must be a function such as F.cross_entropy or nn.CrossEntropyLoss(), not {loss!r}")
    if isinstance(inputs, Keywords):
        if targets is None:
            raise ValueError(
                f'batches: a mapping ({", ".join(inputs)}) has no "{LABELS}" for loss(outputs, targets); rename that'
                " key, or use pairs (inputs, targets)"
            )
        outputs = logits_in(outputs)
    return check_loss(loss(outputs, targets))


def check_loss(value: Any) -> Tensor:
    """``value``, the loss of a batch. Raises ValueError unless it is a tensor with one element."""
    if not (isinstance(value, Tensor) and value.numel() == 1):
        form = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f'loss: must return one number, a tensor with a batch\'s mean (reduction="mean"), not {form}')
    return value


def batch_size(inputs: Any, targets: Any) -> float:
    """The number of examples in a batch; in a mapping without labels, the length of its first tensor.

    Raises ValueError if ``targets`` is not a tensor of shape (N, ...).
    """
    if targets is None and isinstance(inputs, Keywords):
        targets = next((entry for entry in inputs.values() if isinstance(entry, Tensor)), None)
    if not (isinstance(targets, Tensor) and targets.dim()):
        form = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(
            f"batches: targets are not a tensor (examples, ...) but {form}; use a DataLoader, which stacks examples,"
            " or pass weight=, a function that returns how many examples a batch counts as"
        )
    return len(targets)


def check_weight(weight: float) -> float:
    """``weight``, the number of examples that a batch counts as. Raises ValueError unless it is finite and >= 0."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: must return a finite number >= 0 for each batch, not {weight}")
    return float(weight)
