"""Batches: pairs (inputs, targets), or mappings of keyword arguments of the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset

from smoothout.nn.forward import Keywords

Batches = Iterable[Any]  # pairs (inputs, targets) or mappings; for analyses, the same examples at every pass

LABELS = "labels"  # the key of a mapping's targets
WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel and AveragedModel; torch.compile


class Examples:
    """``batches`` as pairs (inputs, targets) on the device of ``model``; each iteration is one pass over them.

    For a mapping, the inputs are `Keywords` and the targets are its "labels", if any. The labels stay among the inputs
    if the model takes them, because some models use them for more than the loss. Raises ValueError if ``batches`` is
    something else, such as a Dataset or an array.
    """

    def __init__(self, name: str, batches: Batches, model: nn.Module) -> None:
        if hint := _mistaken_for_batches(batches):
            raise ValueError(f"{name}: must hold (inputs, targets), not {hint}")
        self._name, self._batches, self._model = name, batches, model
        self._device = only_device(model)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._pairs(copy=False)

    def copied(self) -> Iterator[tuple[Any, Any]]:
        """One pass over copies of the batches, which stay valid after the next batch is read."""
        return self._pairs(copy=True)

    def _pairs(self, *, copy: bool) -> Iterator[tuple[Any, Any]]:
        for batch in self._batches:
            inputs, targets = to_device(as_pair(self._name, batch), self._device, copy=copy)
            yield without_unused_labels(inputs, self._model), targets


def without_unused_labels(inputs: Any, model: nn.Module) -> Any:
    """If ``inputs`` are `Keywords`, remove the labels from them, in place, unless ``model`` takes labels."""
    if isinstance(inputs, Keywords) and not takes(model, LABELS):
        inputs.pop(LABELS, None)
    return inputs


def as_pair(name: str, batch: Any) -> tuple[Any, Any]:
    """The inputs and targets of ``batch``. Raises ValueError unless it is a pair or a mapping."""
    if isinstance(batch, Mapping):
        return Keywords(batch), batch.get(LABELS)
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        form = f"{len(batch)} elements" if isinstance(batch, tuple | list) else type(batch).__name__
        example = "[(batch[0], batch[-1]) for batch in loader]"
        raise ValueError(f"{name}: each must be a pair (inputs, targets) or a mapping, not {form}; use {example}")
    inputs, targets = batch
    return inputs, targets


def check_batches(name: str, batches: Any) -> None:
    """Raise ValueError if ``batches`` are empty, allow only one pass, or do not start with a pair or a mapping."""
    hint = _mistaken_for_batches(batches)
    if hint is None and isinstance(batches, Iterator):
        hint = f"{batches!r}; use a DataLoader, or a list of the batches"
    if hint is None:
        first = next(iter(batches), None)
        if first is not None:
            as_pair(name, first)
            return
        hint = f"empty ({type(batches).__name__})"
    raise ValueError(f"{name}: must hold (inputs, targets) and allow more than one pass, not {hint}")


def is_empty(inputs: Any) -> bool:
    """Whether the first tensor in the ``inputs`` of a batch has no examples."""
    leaves = tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    first = next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)
    return first is not None and not len(first)


def _mistaken_for_batches(batches: Any) -> str | None:
    """A hint that says what ``batches`` are and what to use instead; None if they may hold batches."""
    form = type(batches).__name__
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        return f"examples ({form}); use torch.utils.data.DataLoader(dataset, batch_size=1000)"
    if isinstance(batches, Mapping) or _is_array(batches):
        return f"a {form}; use [(inputs, targets)] or a DataLoader"
    if isinstance(batches, tuple | list) and len(batches) == 2 and all(map(_is_array, batches)):
        return "one pair of arrays; use [(inputs, targets)], both torch tensors"
    if not (isinstance(batches, Iterable) or hasattr(batches, "__getitem__")):
        return f"a {form}; use a DataLoader, or a list of batches"
    return None


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether the forward method of ``model``, or of the model that it wraps, has this argument."""
    arguments = inspect.signature(model.forward).parameters
    if keyword in arguments or not any(a.kind is a.VAR_KEYWORD for a in arguments.values()):
        return keyword in arguments
    inner = next((getattr(model, name) for name in WRAPPERS if hasattr(model, name)), None)
    return inner is None or takes(inner, keyword)


def only_device(model: nn.Module) -> torch.device | None:
    """The device of all parameters of ``model``; None if they are on several."""
    devices = {parameter.device for parameter in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def to_device(value: Any, device: torch.device | None, *, copy: bool = False) -> Any:
    """Move the tensors in ``value`` to ``device``, unless that is None; return ``value`` itself if no tensor changes.

    ``copy`` also copies tensors that need not move, except inside objects that are neither mappings nor sequences.
    """
    if isinstance(value, Tensor):
        # Autograd cannot save a tensor created in torch.inference_mode.
        return value.to(device or value.device, copy=copy or value.is_inference())
    if isinstance(value, Mapping):
        moved = {key: to_device(entry, device, copy=copy) for key, entry in value.items()}
        return value if all(moved[key] is entry for key, entry in value.items()) else _updated(value, moved)
    move = getattr(value, "to", None)
    if callable(move):  # such as a PackedSequence, or a batch of graphs
        return move(device) if device and device.type != "cpu" else value
    if isinstance(value, tuple | list):
        entries = [to_device(entry, device, copy=copy) for entry in value]
        if any(entry is not before for entry, before in zip(entries, value, strict=True)):
            return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def _updated(mapping: Mapping[Any, Any], entries: Mapping[Any, Any]) -> Any:
    """A copy of ``mapping`` with these ``entries``: of the same type if it is mutable, otherwise a dict."""
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
