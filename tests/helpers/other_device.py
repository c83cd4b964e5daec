"""A device that is not there: its tensors are the CPU's, but are not mixed with these, and every copy is counted.

A `Remote` tensor says that it lies on torch's "meta" device, which this stands in for; `OtherDevice` is the mode in
which operations on it are carried out, on the CPU tensor inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"}


class Remote(Tensor):
    """A tensor on the other device, around the CPU tensor that holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        made: Remote = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """Its numbers, copied back."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        raise AssertionError(f"{operation} outside OtherDevice")


class OtherDevice(TorchDispatchMode):
    """Carries out what is done on the other device, and counts copies there, copies back, and the host's waits.

    Raises AssertionError for an operation on tensors of both devices, as CUDA does (which takes numbers without a
    dimension, unless they are joined); and, without ``float64``, for one that leaves such a tensor on the device, as
    Apple's MPS does.
    """

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.float64 = float64
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        settings = dict(settings or {})
        name = operation.overloadpacket.__name__
        given = [one for one in tree_leaves((arguments, settings)) if isinstance(one, Tensor)]
        remote = any(isinstance(one, Remote) for one in given)
        joins = name in {"cat", "stack"}
        here = [one for one in given if not isinstance(one, Remote) and (one.dim() or joins)]
        target = settings.get("device")
        there = remote if target is None else torch.device(target) == DEVICE
        if name in {"copy_", "_foreach_copy_"}:
            self._count_copies(arguments)
        else:
            assert not (remote and here), f"{operation}: tensors on two devices"
            self.counts["there"] += there and not remote and bool(given)
            self.counts["back"] += remote and not there
        by_truth = name in {"index", "index_put_"} and any(one.dtype == torch.bool for one in given[1:])
        self.counts["waits"] += remote and (name in WAITING or by_truth or not there)
        self.counts["waits"] += there and not remote and bool(given)
        if there and target is not None:
            settings["device"] = torch.device("cpu")
        inside = tree_map_only(Remote, lambda one: one.inner, (arguments, settings))
        found = operation(*inside[0], **inside[1])
        if not there:
            return found
        found = tree_map_only(Tensor, Remote, found)
        if not self.float64:
            doubles = [one for one in tree_leaves(found) if isinstance(one, Remote) and one.dtype == torch.float64]
            assert not doubles, f"{operation}: float64 on a device without it"
        return return_and_correct_aliasing(operation, arguments, settings, found) if remote else found

    def _count_copies(self, arguments: Any) -> None:
        targets, sources = (side if isinstance(side, list | tuple) else [side] for side in arguments[:2])
        for target, source in zip(targets, sources, strict=True):
            across = isinstance(target, Remote) - isinstance(source, Remote)
            self.counts["there" if across > 0 else "back"] += across != 0
            self.counts["waits"] += across != 0

    def moved(self, model: nn.Module) -> nn.Module:
        """``model``, with its parameters and buffers on the device."""
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(Remote(parameter.detach()), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = Remote(buffer)
        return model


def moved_batches(batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """``batches``, on the device."""
    return [(Remote(inputs), Remote(targets)) for inputs, targets in batches]
