"""Tensors end to end in one flat vector, so that work on all of a model's numbers takes few operations.

An operation for each tensor is a kernel launch for each tensor on a GPU. What is here takes a number of launches that
does not depend on how many tensors there are; index tensors are built once, when the layout is known, so that nothing
waits for the device later and all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from smoothout.nn.parameters import group_by_dtype_and_device


class FlatBuffers:
    """Room for a copy of ``tensors``: one flat tensor a dtype and device, in which they lie end to end.

    Attributes:
        groups: one for each dtype and device, in the order of their first tensors.
        views: the room cut into the tensors' shapes, tensor by tensor.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.groups = [FlatGroup(tensors, members) for members in group_by_dtype_and_device(tensors).values()]
        self.views = self._in_order([group.views for group in self.groups])

    def with_strides(self) -> list[Tensor]:
        """What the room holds as tensors with the strides of the given ones (dense ones, where these are).

        Views where the order in memory is the logical one; the others are copied by one gather a group.
        """
        return self._in_order([group.with_strides() for group in self.groups])

    def _in_order(self, grouped: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        of = {
            i: t
            for group, part in zip(self.groups, grouped, strict=True)
            for i, t in zip(group.members, part, strict=True)
        }
        return [of[index] for index in range(len(of))]


class FlatGroup:
    """The room for those of ``tensors`` that are ``members``, which share dtype and device.

    Attributes:
        members: their indices.
        flat: (n,), uninitialised. It holds the entries in logical order, whatever the tensors' strides are, so that a
            draw into it does not depend on the memory format.
        views: ``flat`` cut into the members' shapes.
    """

    def __init__(self, tensors: Sequence[Tensor], members: Sequence[int]) -> None:
        self.members, own = members, [tensors[index] for index in members]
        sizes = [tensor.numel() for tensor in own]
        self.flat = torch.empty(sum(sizes), dtype=own[0].dtype, device=own[0].device)
        self.views = [  # a 1 x 1 kernel in channels_last is contiguous, with other strides
            piece.as_strided(tensor.shape, tensor.stride()) if tensor.is_contiguous() else piece.view(tensor.shape)
            for piece, tensor in zip(torch.split(self.flat, sizes), own, strict=True)
        ]
        self._laid_out = list(self.views)
        self._order, self._permuted = self.flat.new_empty(0, dtype=torch.int64), self.flat.new_empty(0)
        permuted = [index for index, tensor in enumerate(own) if not tensor.is_contiguous()]
        if permuted:
            self._permute(permuted, own)

    def _permute(self, permuted: list[int], own: list[Tensor]) -> None:
        """Make the room of the members whose order in memory is not the logical one, and the index that fills it."""
        entries = torch.arange(len(self.flat), dtype=_index_dtype(len(self.flat)), device="cpu")
        places = torch.split(entries, [tensor.numel() for tensor in own])
        orders = [
            torch.empty_like(own[i], dtype=entries.dtype, device="cpu").copy_(places[i].view(own[i].shape))
            for i in permuted
        ]
        self._order = torch.cat([order.as_strided((order.numel(),), (1,)) for order in orders]).to(self.flat.device)
        self._permuted = self.flat.new_empty(len(self._order))
        rooms = torch.split(self._permuted, [order.numel() for order in orders])
        for index, order, room in zip(permuted, orders, rooms, strict=True):
            self._laid_out[index] = room.as_strided(order.shape, order.stride())

    @cached_property
    def filters(self) -> Filters:
        """The members' filters, as segments of ``flat``; built the first time, which waits for the device."""
        return Filters(self.views)

    def with_strides(self) -> list[Tensor]:
        """The entries as tensors with the members' strides."""
        if len(self._order):
            torch.index_select(self.flat, 0, self._order, out=self._permuted)
        return self._laid_out


class Filters:
    """The filters (see `filter_norms`) of ``tensors`` on one device, as segments of the vector of all their entries.

    Norms are roots of sums of squares in float32 at least, so those below 1e-19 are lost.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        lengths = torch.cat([filter_lengths(tensor) for tensor in tensors])
        self._offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device)
        owners = torch.repeat_interleave(lengths)  # the filter that each entry belongs to
        self._owners = owners.to(device, _index_dtype(len(owners)))

    def scale(self, flat: Tensor, weights: Sequence[Tensor], a: float | Tensor = 1.0) -> Tensor:
        """Scale each filter of ``flat``, (n,), in place to the length a ||w_filter||, and return it.

        What `filter_normalize_` does tensor by tensor, but for the order in which squares are added up. ``weights``
        have the shapes of the tensors that this was made for, in any layout.
        """
        wide = torch.promote_types(flat.dtype, torch.float32)  # float16 ends at 65504
        direction = flat.to(wide)
        weight_norms = self._norms(torch.cat([group_by_filter(weight.detach()) for weight in weights]).to(wide))
        ratio = weight_norms.mul_(a).div_(self._norms(direction).add_(1e-6))
        return flat.copy_(direction.mul_(ratio.index_select(0, self._owners)))

    def _norms(self, flat: Tensor) -> Tensor:
        return segment_sums(flat.square(), self._offsets).sqrt_()


def segment_sums(flat: Tensor, offsets: Tensor) -> Tensor:
    """The sums of ``flat`` between each two ``offsets``, which begin with 0 and end with its length."""
    # unsafe: the check of the offsets would wait for the device
    return torch.segment_reduce(flat, "sum", offsets=offsets, unsafe=True, initial=0)


def _index_dtype(entries: int) -> torch.dtype:
    return torch.int32 if entries < 2**31 else torch.int64


def filter_lengths(tensor: Tensor) -> Tensor:
    """How many entries each filter has, (filters,)."""
    filters = tensor.numel() if tensor.dim() < 2 else len(tensor)
    return torch.full((filters,), tensor.numel() // max(filters, 1), dtype=torch.int64, device="cpu")


def group_by_filter(tensor: Tensor) -> Tensor:
    """The entries filter by filter, (n,), in any order within a filter: a view where memory holds them so."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if torch.empty_like(tensor, device="meta").stride() != tensor.stride():
        return group_by_filter(tensor.clone())  # as dense as its room in `FlatBuffers`, and in the same order
    one_by_one = tensor.dim() > 1 and tensor.stride(0) * len(tensor) == tensor.numel()
    return tensor.as_strided((tensor.numel(),), (1,)) if one_by_one else tensor.reshape(-1)
