"""One split of a data set on a device, and its batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from smoothout.common.rng import make_generator
from smoothout.data.augment import CropFlip


class Split:
    """Images of one split on a device, as uint8 N x H x W x C; batches come out float32, N x C x H x W, normalised."""

    resident: ClassVar[bool] = True  # all images lie on the device

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(), labels
        self._normalise_by(mean, std)

    def _normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        scale = 255 * torch.tensor(std, dtype=torch.float64)
        offset = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._factor = (1 / scale).float().view(-1, 1, 1).to(self.labels.device)
        self._offset = offset.float().view(-1, 1, 1).to(self.labels.device)
        self._layout = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalised images and the labels of ``rows``."""
        return self.normalize(_rows(self.images, rows)), self.labels[rows]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 ``images``, (N, C, H, W), as this split's batches hold them."""
        return images.to(torch.float32, memory_format=self._layout).mul_(self._factor).sub_(self._offset)

    def batches(self, size: int) -> SplitBatches:
        """All examples in their own order, in batches of ``size``, as often as one iterates."""
        return SplitBatches(self, size)

    def first(self, examples: int | None) -> Split:
        """The first ``examples`` examples (None: all), sharing memory with this split."""
        part = copy.copy(self)
        part.images, part.labels = self.images[:examples], self.labels[:examples]
        return part

    def to_memory_format(self, layout: torch.memory_format) -> Split:
        """The same examples, whose batches lie in memory as ``layout`` says, sharing memory with this split."""
        other = copy.copy(self)
        other._layout = layout
        return other

    def training_view(self, augmentation: Any, seed: int) -> TrainingView:
        """What a training of ``seed`` learns from; ``augmentation`` is of the kind that goes with these examples."""
        return AugmentedExamples(self, augmentation, seed)


def _rows(images: Tensor, rows: Tensor | slice) -> Tensor:
    """``images[rows]``; on a CPU, ``index_select`` copies an image at a time, where indexing copies byte by byte."""
    return images.index_select(0, rows) if isinstance(rows, Tensor) else images[rows]


class TrainingView(Protocol):
    """What the loop asks of that which a training learns from."""

    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None:
        """Draw what happens to each image in ``epoch``."""

    def prefetch(self, order: Tensor, start: int) -> Tensor:
        """Be told the ``order`` in which rows are taken, from ``start`` on; back on the device `gather` wants."""

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised images, as this epoch shows them, and the labels of ``rows``."""


@dataclass(frozen=True)
class SplitBatches:
    """A split, or ``which`` part of it, in batches of ``size`` (the last may be smaller), as often as one iterates."""

    split: Split
    size: int
    which: slice = field(default_factory=lambda: slice(None))

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def _starts(self) -> range:
        return range(0, len(self.split), self.size)[self.which]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in self._starts:
            yield self.split.gather(slice(start, start + self.size))


class AugmentedExamples:
    """What a training learns from: ``split``, of which ``augmentation`` makes other images every epoch.

    What happens to an image depends on ``seed``, the epoch and the image's row alone: on no order, batch or ghost
    batch. The draws keep their place in the device's memory, where a recorded update finds them.
    """

    def __init__(self, split: Split, augmentation: CropFlip | None, seed: int) -> None:
        self._split, self._augmentation, self._seed = split, augmentation, seed
        self._draws = torch.zeros(3, len(split) if augmentation else 0, dtype=torch.int64, device=split.labels.device)

    def __len__(self) -> int:
        return len(self._split)

    def set_epoch(self, epoch: int) -> None:
        """Draw what happens to each image in ``epoch``."""
        if self._augmentation:
            self._draws.copy_(self._augmentation.draws(len(self._split), make_generator(self._seed, "augment", epoch)))

    def prefetch(self, order: Tensor, start: int) -> Tensor:
        """``order`` on the device: there is nothing to prepare."""
        return order.to(self._split.labels.device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised images, as this epoch shows them, and the labels of ``rows``."""
        if not self._augmentation:
            return self._split.gather(rows)
        images = self._augmentation.apply(_rows(self._split.images, rows), self._draws[:, rows])
        return self._split.normalize(images), self._split.labels[rows]
