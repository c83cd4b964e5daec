"""What analyses take as batches: pairs (inputs, targets), or mappings that a model takes as keyword arguments."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from smoothout.nn.forward import Keywords

Batches = Iterable[Any]  # pairs (inputs, targets) or mappings, the same examples at every pass
Loss = Callable[[Any, Any], Tensor]  # of (outputs, targets): the mean over the examples of a batch
Weight = Callable[[Any, Any], float]  # of (inputs, targets): how many examples a batch counts as; 0 skips it

LABELS = "labels"  # the key of a mapping's targets
WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel and AveragedModel; torch.compile


class Examples:
    """``batches`` as pairs (inputs, targets) on the device of ``model``; every iteration is a pass.

    Of a mapping, the inputs are `Keywords` and the targets its "labels", if it has any. These stay among the inputs if
    the model takes them, as some need them for more than their loss.
    """

    def __init__(self, name: str, batches: Batches, model: nn.Module) -> None:
        self._name, self._batches, self._model = name, batches, model
        self._device = only_device(model)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._batches:
            inputs, targets = to_device(as_pair(self._name, batch), self._device)
            if isinstance(inputs, Keywords) and not takes(self._model, LABELS):
                inputs.pop(LABELS, None)
            yield inputs, targets


def as_pair(name: str, batch: Any) -> tuple[Any, Any]:
    """The inputs and targets of ``batch``. Raises ValueError for one that is neither a pair nor a mapping."""
    if isinstance(batch, Mapping):
        return Keywords(batch), batch.get(LABELS)
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        form = f"{len(batch)} elements" if isinstance(batch, tuple | list) else type(batch).__name__
        example = "[(batch[0], batch[-1]) for batch in loader]"
        raise ValueError(f"{name}: each must be a pair (inputs, targets) or a mapping, not {form}; use {example}")
    inputs, targets = batch
    return inputs, targets


def check_batches(name: str, batches: Any) -> None:
    """Raise ValueError unless ``batches`` hold some, allow more than one pass, and start with a pair or a mapping."""
    form = type(batches).__name__
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        hint = f"examples ({form}); use torch.utils.data.DataLoader(dataset, batch_size=1000)"
    elif isinstance(batches, Mapping) or _is_array(batches):
        hint = f"a {form}; use [(inputs, targets)] or a DataLoader"
    elif isinstance(batches, tuple | list) and len(batches) == 2 and all(map(_is_array, batches)):
        hint = "one pair of arrays; use [(inputs, targets)], both torch tensors"
    elif isinstance(batches, Iterator):
        hint = f"{batches!r}; use a DataLoader, or a list of the batches"
    elif not (isinstance(batches, Iterable) or hasattr(batches, "__getitem__")):
        hint = f"a {form}; use a DataLoader, or a list of batches"
    elif (first := next(iter(batches), None)) is None:
        hint = f"empty ({form})"
    else:
        as_pair(name, first)
        return
    raise ValueError(f"{name}: must hold (inputs, targets) and allow more than one pass, not {hint}")


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether the forward pass of ``model``, or of what it wraps, has this argument."""
    arguments = inspect.signature(model.forward).parameters
    if keyword in arguments or not any(a.kind is a.VAR_KEYWORD for a in arguments.values()):
        return keyword in arguments
    inner = next((getattr(model, name) for name in WRAPPERS if hasattr(model, name)), None)
    return inner is None or takes(inner, keyword)


def only_device(model: nn.Module) -> torch.device | None:
    """The device of all parameters of ``model``; None if they are on several."""
    devices = {parameter.device for parameter in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def to_device(value: Any, device: torch.device | None) -> Any:
    """``value`` with its tensors on ``device`` (None: where they are), fit for derivatives; itself if they are so."""
    if isinstance(value, Tensor):
        # Autograd cannot save a tensor that was made within torch.inference_mode.
        return (value.clone() if value.is_inference() else value).to(device or value.device)
    if isinstance(value, Mapping):
        moved = {key: to_device(entry, device) for key, entry in value.items()}
        return value if all(moved[key] is entry for key, entry in value.items()) else _updated(value, moved)
    move = getattr(value, "to", None)
    if callable(move):  # such as a PackedSequence, or a batch of graphs
        return move(device) if device and device.type != "cpu" else value
    if isinstance(value, tuple | list):
        entries = [to_device(entry, device) for entry in value]
        if any(entry is not before for entry, before in zip(entries, value, strict=True)):
            return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def _updated(mapping: Mapping[Any, Any], entries: Mapping[Any, Any]) -> Any:
    """A copy of ``mapping``, of its kind if it has other methods, with these ``entries``."""
    copied: Any = copy.copy(mapping) if isinstance(mapping, MutableMapping) else {}
    copied.update(entries)
    return copied


def carried(outputs: Any, name: str) -> Any:
    """The entry or attribute ``name`` of a model's ``outputs``, such as its loss; None if there is none."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def logits_in(outputs: Any) -> Any:
    """The logits that ``outputs`` carry, or ``outputs`` themselves."""
    logits = carried(outputs, "logits")
    return outputs if logits is None else logits


def batch_loss(loss: Loss | None, outputs: Any, targets: Any, inputs: Any) -> Tensor:
    """The loss of a batch, of shape () or one element: ``loss`` (outputs, targets), or for None what outputs carry.

    Of a mapping, ``loss`` gets the logits in the outputs. Raises TypeError if ``loss`` is not a function, and
    ValueError if outputs carry no loss, a mapping has no labels, or the loss is not one number.
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
    """The number of examples in a batch; of a mapping without labels, in its first tensor.

    Raises ValueError if ``targets`` is not a tensor of shape (N, ...).
    """
    if targets is None and isinstance(inputs, Keywords):
        targets = next((entry for entry in inputs.values() if isinstance(entry, Tensor)), None)
    if not (isinstance(targets, Tensor) and targets.dim()):
        form = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(
            f"batches: targets are not a tensor (examples, ...) but {form}; use a DataLoader, which stacks examples,"
            " or give a weight, how much a batch counts"
        )
    return len(targets)


def check_weight(weight: float) -> float:
    """``weight``, how much a batch counts. Raises ValueError unless it is a finite number >= 0."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: must return a finite number >= 0 for each batch, not {weight}")
    return float(weight)
