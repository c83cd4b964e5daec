"""Ghost batch normalization (Hoffer et al. 2017): BatchNorm's statistics over parts of a batch, in one pass.

    with ghosted(model, ghosts=16):
        loss = F.cross_entropy(model(x), y)  # x: 2048 examples; each layer sees 16 batches of 128
        loss.backward()

Up to rounding, outputs, gradients and running statistics equal those of separate passes over the parts (as in
`torch.chunk`), if the model uses each BatchNorm layer once and otherwise treats examples independently.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from smoothout.common.integers import whole_number
from smoothout.nn.guards import check_layers
from smoothout.nn.parameters import group_by

# On a CPU, with at least this many activations per ghost batch, a call for each ghost batch is faster than copying.
LARGE_GHOST = 2**15


class _Ghost(_BatchNorm):
    """BatchNorm with statistics over each of ``ghosts`` parts of a batch, as in `torch.chunk`.

    In evaluation mode it is plain BatchNorm. Its state dict is that of the plain layer. Copies and pickles are plain
    layers, because leaving `ghosted` could not revert them.
    """

    ghosts: int = 1
    shared: _Shared | None = None  # set during `forward_ghosts`

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Copy and pickle as the plain layer."""
        state = {name: value for name, value in vars(self).items() if name not in ("ghosts", "shared")}
        return object.__new__, (_PLAIN[type(self)],), state

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` (N, C, ...); in training mode, each ghost batch separately."""
        if not self.training or not len(x):
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        size = -(-len(x) // self.ghosts)
        # `forward_ghosts` always copies, so that the bits of trainings do not change; a compiler would unroll calls.
        copies = self.shared is not None or x.device.type != "cpu" or torch.compiler.is_compiling()
        if copies or x[:size].numel() < LARGE_GHOST:
            normalized = [self._side_by_side(part, size) for part in split_remainder(x, size)]
        else:
            normalized = [self._in_turn(x, size)]
        outputs, statistics = zip(*normalized, strict=True)
        if _tracks_stats(self):
            joined = _joined([part for part in statistics if part is not None], 1)
            if self.shared is None:
                update_running_stats({self: joined})
            else:
                self.shared.statistics[self] = joined
        return _joined(list(outputs), 0)

    def _side_by_side(self, x: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        """Normalize ghost batches of ``size`` examples each; also return means and unbiased variances (2, ghosts, C).

        These are None without running statistics. Ghost batches become channels: ``x`` is normalized as
        (size, ghosts C, ...). This copies an ``x`` of (ghosts size, C, ...) there and back, but not a contiguous one of
        (size ghosts, C, ...).
        """
        ghosts, channels = max(1, len(x) // size), x.shape[1]
        shared = self.shared
        axis, parts = (1, (-1, ghosts)) if shared and shared.interleaved else (0, (ghosts, -1))
        at = x.dim() - 1 if x.stride(1) == 1 else 1  # keeps the channels_last memory format
        apart = torch.unflatten(x.movedim(1, at), 0, parts)
        side_by_side = apart.movedim(axis, at).flatten(at, at + 1).movedim(at, 1)
        if shared is None or shared.ghosts != ghosts or len(x) < size:  # a smaller remainder is normalized separately
            shared = _Shared([self], ghosts)
        weight, bias = shared.repeated.get(self, (None, None))
        statistics = shared.buffers.get(self)  # with momentum 1 they are filled with the batch's own statistics
        mean, variance = (None, None) if statistics is None else statistics.flatten(1)
        normalized = F.batch_norm(side_by_side, mean, variance, weight, bias, training=True, momentum=1.0, eps=self.eps)
        apart = torch.unflatten(normalized.movedim(1, at), at, (ghosts, channels)).movedim(at, axis)
        return apart.flatten(0, 1).movedim(at, 1), statistics

    def _in_turn(self, x: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        """As `_side_by_side`, but with one call per ghost batch, also for a smaller remainder: one copy each way."""
        parts, statistics = torch.split(x, size), None
        means: Iterable[Tensor | None] = [None] * len(parts)
        variances = means
        if _tracks_stats(self) and self.running_mean is not None:
            statistics = self.running_mean.new_zeros(2, len(parts), len(self.running_mean))
            means, variances = statistics  # filled as in `_side_by_side`
        normalized = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        return _joined(normalized, 0), statistics


class _Shared:
    """Tensors that BatchNorm layers need for a pass, created together with few operations on the device.

    ``ghosts`` is the number of ghost batches of full size in the pass. If ``interleaved``, example i belongs to ghost
    batch i % ghosts.
    """

    def __init__(self, layers: Sequence[_BatchNorm], ghosts: int, interleaved: bool = False) -> None:
        self.ghosts, self.interleaved = ghosts, interleaved
        self.statistics: dict[_BatchNorm, Tensor] = {}  # (2, ghosts, C), from the layers
        self.repeated: dict[_BatchNorm, Sequence[Tensor | None]] = {}  # weight and bias of each layer, (ghosts C,)
        affine = [layer for layer in layers if layer.affine]
        for group in group_by(affine, lambda m: (m.weight.shape, m.weight.dtype, m.weight.device, m.bias is None)):
            kinds = ("weight",) if group[0].bias is None else ("weight", "bias")
            stacked = torch.stack([getattr(layer, kind) for layer in group for kind in kinds])
            rows = stacked[:, None].expand(-1, ghosts, -1).flatten(1).unbind()
            biases = rows[1::2] if len(kinds) > 1 else [None] * len(group)
            self.repeated |= dict(zip(group, zip(rows[:: len(kinds)], biases, strict=True), strict=True))
        self.buffers: dict[_BatchNorm, Tensor] = {}  # zeros (2, ghosts, C) for each layer with running statistics
        means = {m: m.running_mean for m in layers if _tracks_stats(m) and m.running_mean is not None}
        for group in group_by(means, lambda layer: (means[layer].dtype, means[layer].device)):
            sizes = [2 * ghosts * len(means[layer]) for layer in group]
            zeros = torch.split(means[group[0]].new_zeros(sum(sizes)), sizes)
            self.buffers |= {layer: part.view(2, ghosts, -1) for layer, part in zip(group, zeros, strict=True)}


class GhostBatchNorm1d(_Ghost, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over ghost batches."""


class GhostBatchNorm2d(_Ghost, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over ghost batches."""


class GhostBatchNorm3d(_Ghost, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over ghost batches."""


_PLAIN: dict[type[_BatchNorm], type[_BatchNorm]] = {
    GhostBatchNorm1d: nn.BatchNorm1d,
    GhostBatchNorm2d: nn.BatchNorm2d,
    GhostBatchNorm3d: nn.BatchNorm3d,
}
_GHOST = {plain: ghost for ghost, plain in _PLAIN.items()}


def convert_ghost_batchnorm(model: nn.Module, ghosts: int) -> None:
    """Make every BatchNorm layer normalize ``ghosts`` parts of a batch separately, until `revert_ghost_batchnorm`.

    Layers stay the same objects with the same parameters, buffers and names. A second call replaces the number of
    parts. Raises ValueError, with the model unchanged, for fewer than 1 part or another kind of BatchNorm, such as
    SyncBatchNorm.
    """
    ghosts = whole_number("ghosts", ghosts, 1)
    layers = _layers(model)
    for kind in map(type, layers):
        if kind not in _GHOST and kind not in _PLAIN:
            raise ValueError(f"{kind.__name__}: only BatchNorm1d, BatchNorm2d and BatchNorm3d support ghost batches")
    for layer in layers:
        _divide(layer, ghosts)


def revert_ghost_batchnorm(model: nn.Module) -> None:
    """Return every BatchNorm layer to its plain form, in place."""
    for layer in _layers(model):
        _divide(layer, None)


@contextmanager
def ghosted(model: nn.Module, ghosts: int) -> Iterator[None]:
    """Inside, BatchNorm normalizes parts of a batch separately; outside, as before, also after an exception.

    The parts are consecutive examples, and running statistics are updated as if the parts were forwarded one by one.
    Layers stay the same objects. Run the backward pass inside the block too: activation checkpointing recomputes
    outputs there, and outside the block it would use plain BatchNorm. With ``use_reentrant=True``, gradients would be
    wrong without an error.

    Args:
        model: any module; only its BatchNorm layers change.
        ghosts: number of parts, at least 1.

    Raises:
        ValueError: for fewer than 1 part, or a BatchNorm other than 1d, 2d and 3d, such as SyncBatchNorm.
    """
    before = [(layer, layer.ghosts if isinstance(layer, _Ghost) else None) for layer in _layers(model)]
    convert_ghost_batchnorm(model, ghosts)
    try:
        yield
    finally:
        for layer, number in before:
            _divide(layer, number)


def forward_ghosts(
    network: Callable[[Tensor], Tensor], model: nn.Module, inputs: Tensor, ghosts: int, interleaved: bool | None = None
) -> Tensor:
    """Run one forward pass in `ghosted`, with fewer operations: BatchNorm layers share their setup.

    Args:
        network: ``model``, or its compiled version. The backward pass must not recompute activations.
        model: must use each BatchNorm layer at most once.
        inputs: (N, ...), one ghost batch after another; the outputs have the same order.
        ghosts: number of parts, as in `torch.chunk`.
        interleaved: whether to interleave the examples of the ghost batches inside the network, which saves copies of
            contiguous activations in BatchNorm layers. None is False on a CPU, so that sums over examples keep their
            order, and True elsewhere.
    """
    layers, size = _layers(model), -(-len(inputs) // ghosts)
    interleaved = inputs.device.type != "cpu" if interleaved is None else interleaved
    with ghosted(model, ghosts):
        shared = _Shared(layers, max(1, len(inputs) // size), interleaved)
        try:
            for layer in layers:
                layer.__dict__["shared"] = shared
            outputs = network(_transposed(inputs, size) if interleaved else inputs)
        finally:
            for layer in layers:
                layer.__dict__.pop("shared", None)
    update_running_stats(shared.statistics)
    return _transposed(outputs, size, back=True) if interleaved else outputs


def _transposed(x: Tensor, size: int, *, back: bool = False) -> Tensor:
    """Interleave the examples of ghost batches of ``size``, a smaller remainder last; ``back`` undoes this."""
    full, *rest = split_remainder(x, size)
    full = torch.unflatten(full, 0, (size, -1) if back else (-1, size)).transpose(0, 1).flatten(0, 1)
    return torch.cat([full, *rest]) if rest else full


@torch.no_grad()
def update_running_stats(statistics: Mapping[_BatchNorm, Tensor]) -> None:
    """Update the running statistics of each layer with the statistics of its ghost batches, in order.

    ``statistics`` are each layer's means and variances, (2, ghosts, C). After g ghost batches, r becomes
    (1 - m)^g r + m sum_i (1 - m)^(g - i) s_i, i from 1. If the momentum m is None, r is the mean over all batches.
    """

    def kind(layer: _BatchNorm) -> Hashable:
        tensor, momentum = statistics[layer], layer.momentum
        return id(layer) if momentum is None else momentum, tensor.shape, tensor.dtype, tensor.device

    for group in group_by(statistics, kind):
        stacked = torch.cat([statistics[layer] for layer in group])
        kept, share = _shares(group[0], stacked)
        averages = [a for layer in group for a in (layer.running_mean, layer.running_var) if a is not None]
        torch._foreach_mul_(averages, kept)
        # Not a matrix product, which TF32 and autocast would round.
        torch._foreach_add_(averages, (share[:, None] * stacked).sum(1).unbind())
        seen = [layer.num_batches_tracked for layer in group if layer.num_batches_tracked is not None]
        if seen:
            torch._foreach_add_(seen, stacked.shape[1])


def _shares(layer: _BatchNorm, statistics: Tensor) -> tuple[float | Tensor, Tensor]:
    """The weights of the old running statistics, and of each ghost batch's statistics, (ghosts,)."""
    ghosts, m, seen = statistics.shape[1], layer.momentum, layer.num_batches_tracked
    if m is None:
        assert seen is not None  # torch requires it as well
        share = (1 / (seen + ghosts).to(statistics)).expand(ghosts)
        return seen * share[0], share
    age = torch.arange(ghosts - 1, -1, -1, dtype=statistics.dtype, device=statistics.device)
    return (1 - m) ** ghosts, m * (1 - m) ** age


def _tracks_stats(layer: _BatchNorm) -> bool:
    """Whether a pass in the current mode updates running statistics."""
    return layer.training and layer.track_running_stats and layer.running_mean is not None


def split_remainder(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split ``x`` into the examples that fill ghost batches of ``size``, and the remainder if there is one."""
    full = len(x) - len(x) % size
    return (x,) if full == len(x) else (x[:full], x[full:])


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in check_layers(model) if isinstance(module, _BatchNorm)]


def _divide(layer: _BatchNorm, ghosts: int | None) -> None:
    """Set the number of ghost batches of ``layer``; None makes it a plain layer again."""
    plain = _PLAIN.get(type(layer), type(layer))
    if ghosts is None:
        layer.__class__ = plain
        layer.__dict__.pop("ghosts", None)
    else:
        layer.__class__ = _GHOST[plain]
        layer.__dict__["ghosts"] = ghosts
