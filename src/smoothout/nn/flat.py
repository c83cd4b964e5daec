"""Store tensors end to end in one flat vector, so that work on all of a model's parameters takes few operations.

On a GPU, one operation per tensor means one kernel launch per tensor. Here the number of launches does not depend on
the number of tensors. Index tensors are built once, when the layout is known, so that later operations do not
synchronize with the device and a CUDA graph can capture them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from smoothout.nn.parameters import group_by_dtype_and_device


class FlatBuffers:
    """Memory for a copy of ``tensors``, stored end to end in one flat tensor per dtype and device.

    ``groups`` are in the order of their first tensors; ``views`` are views of the memory in the tensors' shapes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.groups = [FlatGroup(tensors, members) for members in group_by_dtype_and_device(tensors)]
        self.views = self._in_order([group.views for group in self.groups])

    def with_strides(self) -> list[Tensor]:
        """The content as tensors with the strides of the originals, if these are dense.

        These are views if the order in memory is the logical order; the others are copied by one gather per group.
        """
        return self._in_order([group.with_strides() for group in self.groups])

    def _in_order(self, grouped: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        ordered: dict[int, Tensor] = {}
        for group, part in zip(self.groups, grouped, strict=True):
            ordered |= dict(zip(group.members, part, strict=True))
        return [ordered[index] for index in range(len(ordered))]


class FlatGroup:
    """The memory for the ``tensors`` with indices ``members``, which share dtype and device.

    ``flat``, (n,), holds the entries in logical order, whatever the tensors' strides, so that a draw into it does not
    depend on the memory format; ``views`` are ``flat`` in the members' shapes.
    """

    def __init__(self, tensors: Sequence[Tensor], members: Sequence[int]) -> None:
        self.members, chosen = members, [tensors[index] for index in members]
        sizes = [tensor.numel() for tensor in chosen]
        self.flat = torch.empty(sum(sizes), dtype=chosen[0].dtype, device=chosen[0].device)
        self.views = [  # a 1 x 1 kernel in channels_last is contiguous, with other strides
            part.as_strided(tensor.shape, tensor.stride()) if tensor.is_contiguous() else part.view(tensor.shape)
            for part, tensor in zip(torch.split(self.flat, sizes), chosen, strict=True)
        ]
        self._laid_out = list(self.views)
        self._order, self._permuted = self.flat.new_empty(0, dtype=torch.int64), self.flat.new_empty(0)
        permuted = [index for index, tensor in enumerate(chosen) if not tensor.is_contiguous()]
        if permuted:
            self._permute(permuted, chosen)

    def _permute(self, permuted: list[int], tensors: list[Tensor]) -> None:
        """Allocate memory for members with another order in memory than the logical one, and the index to fill it."""
        entries = torch.arange(len(self.flat), dtype=_index_dtype(len(self.flat)), device="cpu")
        positions = torch.split(entries, [tensor.numel() for tensor in tensors])
        orders = [
            torch.empty_like(tensors[i], dtype=entries.dtype, device="cpu").copy_(positions[i].view(tensors[i].shape))
            for i in permuted
        ]
        self._order = torch.cat([order.as_strided((order.numel(),), (1,)) for order in orders]).to(self.flat.device)
        self._permuted = self.flat.new_empty(len(self._order))
        parts = torch.split(self._permuted, [order.numel() for order in orders])
        for index, order, part in zip(permuted, orders, parts, strict=True):
            self._laid_out[index] = part.as_strided(order.shape, order.stride())

    @cached_property
    def filters(self) -> Filters:
        """The members' filters as segments of ``flat``; the first access builds them and waits for the device."""
        return Filters(self.views)

    def with_strides(self) -> list[Tensor]:
        """The entries as tensors with the members' strides."""
        if len(self._order):
            torch.index_select(self.flat, 0, self._order, out=self._permuted)
        return self._laid_out


class Filters:
    """The filters (see `filter_norms`) of ``tensors`` on one device, as segments of the vector of all entries.

    Norms are computed from squares in float32 or wider, so norms below 1e-19 become 0.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        lengths = torch.cat([filter_lengths(tensor) for tensor in tensors])
        self._offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device)
        owners = torch.repeat_interleave(lengths)  # the filter that each entry belongs to
        self._owners = owners.to(device, _index_dtype(len(owners)))

    def scale(self, flat: Tensor, weights: Sequence[Tensor], a: float | Tensor = 1.0) -> Tensor:
        """Scale each filter of ``flat``, (n,), in place to the length a ||w_filter||, and return it.

        Equals `filter_normalize_` on each tensor, except for the order in which squares are summed.
        ``weights`` have the shapes of ``tensors``, in any layout.
        """
        wide = torch.promote_types(flat.dtype, torch.float32)  # float16 ends at 65504
        direction = flat.to(wide)
        weight_norms = self._norms(torch.cat([group_by_filter(weight.detach()) for weight in weights]).to(wide))
        ratio = weight_norms.mul_(a).div_(self._norms(direction).add_(1e-6))
        return flat.copy_(direction.mul_(ratio.index_select(0, self._owners)))

    def _norms(self, flat: Tensor) -> Tensor:
        return segment_sums(flat.square(), self._offsets).sqrt_()


def segment_sums(flat: Tensor, offsets: Tensor) -> Tensor:
    """The sums of ``flat`` between successive ``offsets``, which start with 0 and end with its length."""
    # unsafe: the check of the offsets would wait for the device
    return torch.segment_reduce(flat, "sum", offsets=offsets, unsafe=True, initial=0)


def _index_dtype(entries: int) -> torch.dtype:
    return torch.int32 if entries < 2**31 else torch.int64


def filter_lengths(tensor: Tensor) -> Tensor:
    """The number of entries of each filter, (filters,)."""
    filters = tensor.numel() if tensor.dim() < 2 else len(tensor)
    return torch.full((filters,), tensor.numel() // max(filters, 1), dtype=torch.int64, device="cpu")


def group_by_filter(tensor: Tensor) -> Tensor:
    """The entries filter by filter, (n,), in any order within a filter; a view if the order in memory allows it."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if torch.empty_like(tensor, device="meta").stride() != tensor.stride():
        return group_by_filter(tensor.clone())  # dense, in the order of `FlatBuffers`
    one_by_one = tensor.dim() > 1 and tensor.stride(0) * len(tensor) == tensor.numel()
    return tensor.as_strided((tensor.numel(),), (1,)) if one_by_one else tensor.reshape(-1)
