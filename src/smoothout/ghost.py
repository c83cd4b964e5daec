"""Ghost batch normalisation (Hoffer et al. 2017): a batch in one pass, BatchNorm's statistics over parts of it.

    with ghosted(model, ghosts=16):
        loss = F.cross_entropy(model(x), y)  # x: 2048 examples; each layer sees 16 batches of 128
        loss.backward()

Outputs, gradients and running averages are those of `torch.chunk`'s pieces going through the model one after another,
to rounding, as long as the model uses each BatchNorm layer once and treats examples alone everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _Ghost(_BatchNorm):
    """BatchNorm that takes statistics over each of ``ghosts`` parts of a batch, cut as `torch.chunk` cuts.

    In evaluation mode it is plain BatchNorm. Takes part in state dicts, copies and pickles like the plain layer.
    """

    ghosts: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (N, C, ...), normalised; in training mode each ghost batch by itself."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        size = -(-len(x) // self.ghosts)
        outputs, statistics = zip(*(self._equal(part, size) for part in _even(x, size)), strict=True)
        if _averaging(self):
            means, variances = zip(*statistics, strict=True)
            feed(self, torch.cat(means), torch.cat(variances))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _equal(self, x: Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
        """(normalised, [means (ghosts, C), unbiased variances (ghosts, C)]) of ghost batches of ``size`` examples.

        Without running averages there are no means and variances, for nobody needs them.

        Ghost batches become channels, side by side: (ghosts size, C, ...) is normalised as (size, ghosts C, ...).
        """
        ghosts, channels = max(1, len(x) // size), x.shape[1]
        at = x.dim() - 1 if x.stride(1) == 1 else 1  # channels stay last in memory where they are
        apart = torch.unflatten(x.movedim(1, at), 0, (ghosts, -1))
        beside = apart.movedim(0, at).flatten(at, at + 1).movedim(at, 1)
        weight, bias = (None if p is None else p.repeat(ghosts) for p in (self.weight, self.bias))
        averages = [self.running_mean, self.running_var] if _averaging(self) else []
        found = [average.new_zeros(ghosts * channels) for average in averages if average is not None]
        mean, variance = found or (None, None)  # momentum 1: the batch's own
        beside = F.batch_norm(beside, mean, variance, weight, bias, training=True, momentum=1.0, eps=self.eps)
        apart = torch.unflatten(beside.movedim(1, at), at, (ghosts, channels)).movedim(at, 0)
        return apart.flatten(0, 1).movedim(at, 1), [numbers.view(ghosts, channels) for numbers in found]


class GhostBatchNorm1d(_Ghost, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over ghost batches."""


class GhostBatchNorm2d(_Ghost, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over ghost batches."""


class GhostBatchNorm3d(_Ghost, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over ghost batches."""


_GHOST: dict[type[_BatchNorm], type[_Ghost]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
_PLAIN: dict[type[_BatchNorm], type[_BatchNorm]] = {ghost: plain for plain, ghost in _GHOST.items()}


def divisible(model: nn.Module) -> bool:
    """Whether every BatchNorm layer of ``model`` is of a kind that `to_ghost` takes."""
    return _foreign(model) is None


def to_ghost(model: nn.Module, ghosts: int) -> None:
    """Let every BatchNorm layer take its statistics over ``ghosts`` parts of a batch, in place, until `from_ghost`.

    Layers stay the same objects with the same parameters, buffers and names. Done again, the last number counts.
    Raises ValueError, with the model as it was, on fewer than 1 part or another kind of BatchNorm (SyncBatchNorm).
    """
    if ghosts < 1:
        raise ValueError(f"ghosts: must be a whole number >= 1, not {ghosts}")
    foreign = _foreign(model)
    if foreign is not None:
        raise ValueError(f"{foreign}: only BatchNorm1d, BatchNorm2d and BatchNorm3d have a form with ghost batches")
    for layer in _layers(model):
        _divide(layer, ghosts)


def from_ghost(model: nn.Module) -> None:
    """Give every BatchNorm layer its plain form again, in place; plain ones stay as they are."""
    for layer in _layers(model):
        _divide(layer, None)


@contextmanager
def ghosted(model: nn.Module, ghosts: int) -> Iterator[None]:
    """Inside, ``model`` is as after `to_ghost`; outside, as it was before, also after an exception.

    The backward pass belongs into the block: there activation checkpointing computes outputs again, which outside it
    would do with plain BatchNorm; with ``use_reentrant=True`` wrong gradients would be all that came of it.
    """
    before = [(layer, layer.ghosts if isinstance(layer, _Ghost) else None) for layer in _layers(model)]
    to_ghost(model, ghosts)
    try:
        yield
    finally:
        for layer, number in before:
            _divide(layer, number)


def forward_each(model: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Ghost batches through ``model``, each at weights of its own, all in one pass.

    Args:
        model: in training mode its running averages take each ghost batch in turn. Uses no chance, so no dropout.
        inputs: (N, ...), ghost batch after ghost batch, all of one size.
        weights: by the name of a parameter, (ghosts, *shape): its value for each ghost batch. The others are shared.

    Returns:
        What the model returns, (N, ...); differentiable in ``weights`` and in the shared parameters.

    Raises:
        ValueError: on ghost batches of several sizes.
        RuntimeError: on dropout.
    """
    ghosts = len(next(iter(weights.values())))
    if len(inputs) % ghosts:
        raise ValueError(f"inputs: {len(inputs)} examples are no {ghosts} ghost batches of one size")
    averaging = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and _averaging(m)}
    rooms = {
        f"{name}.{key}".lstrip("."): torch.zeros((ghosts, *buffer.shape), dtype=buffer.dtype, device=buffer.device)
        for name, layer in averaging.items()
        for key, buffer in layer.named_buffers(recurse=False)
    }

    def one(piece: Tensor, own: dict[str, Tensor], room: dict[str, Tensor]) -> Tensor:
        output: Tensor = functional_call(model, {**own, **room}, (piece,))
        return output

    momenta = [layer.momentum for layer in averaging.values()]
    try:
        for layer in averaging.values():
            layer.momentum = 1.0  # the rooms then hold the statistics of each ghost batch alone
        outputs = torch.vmap(one)(torch.unflatten(inputs, 0, (ghosts, -1)), dict(weights), rooms)
    finally:
        for layer, momentum in zip(averaging.values(), momenta, strict=True):
            layer.momentum = momentum
    for name, layer in averaging.items():
        feed(layer, *(rooms[f"{name}.{key}".lstrip(".")] for key in ("running_mean", "running_var")))
    return outputs.flatten(0, 1)


@torch.no_grad()
def feed(layer: _BatchNorm, means: Tensor, variances: Tensor) -> None:
    """Let the running averages of ``layer`` take the statistics of ghost batches, both (ghosts, C), in turn.

    After g of them an average is (1 - m)^g r + m sum_i (1 - m)^(g - i) s_i, i from 1; without a momentum m it is the
    mean over all ghost batches so far.
    """
    average, variance, seen = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert average is not None
    assert variance is not None
    ghosts, m = len(means), layer.momentum
    kept: Tensor | float
    if m is None:
        assert seen is not None  # torch needs it here too
        share = (1 / (seen + ghosts).to(average)).expand(ghosts)
        kept = seen * share[0]
    else:
        share = m * (1 - m) ** torch.arange(ghosts - 1, -1, -1, dtype=average.dtype, device=average.device)
        kept = (1 - m) ** ghosts
    for running, own in ((average, means), (variance, variances)):
        running.mul_(kept).add_((share[:, None] * own).sum(0))  # no matrix product: TF32 and autocast would round it
    if seen is not None:
        seen.add_(ghosts)


def _averaging(layer: _BatchNorm) -> bool:
    """Whether a pass in the present mode moves running averages."""
    return layer.training and layer.track_running_stats and layer.running_mean is not None


def _even(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """(examples in whole ghost batches of ``size``, and the rest where there is one)."""
    whole = len(x) - len(x) % size
    return (x,) if whole == len(x) else (x[:whole], x[whole:])


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _foreign(model: nn.Module) -> str | None:
    kinds = [type(layer) for layer in _layers(model)]
    return next((kind.__name__ for kind in kinds if kind not in _GHOST and kind not in _PLAIN), None)


def _divide(layer: _BatchNorm, ghosts: int | None) -> None:
    """Give ``layer`` so many ghost batches, or none: the plain form."""
    plain = _PLAIN.get(type(layer), type(layer))
    if ghosts is None:
        layer.__class__ = plain
        layer.__dict__.pop("ghosts", None)
    else:
        layer.__class__ = _GHOST[plain]
        layer.__dict__["ghosts"] = ghosts
