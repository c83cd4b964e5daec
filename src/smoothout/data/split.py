"""One split of a data set on a device, its batches, and the examples as a training sees them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from smoothout.common.rng import make_generator
from smoothout.data.augment import Augmentation


class Split:
    """Images of one split on a device: uint8 ``images``, (N, H, W, C), and int64 ``labels``, (N,).

    Batches are normalized float32, (N, C, H, W): pixels are scaled to [0, 1], then ``mean`` is subtracted and the
    result divided by ``std``. Images that are float32 (features) are not scaled first.
    """

    resident: ClassVar[bool] = True  # all images lie on the device, where a captured CUDA graph can read them

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(), labels
        self._normalize_by(mean, std, self.images.shape[1:], unit=1 if images.is_floating_point() else 255)

    def _normalize_by(
        self, mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...], unit: int = 255
    ) -> None:
        # x * factor - offset = (x / unit - mean) / std. Both have the shape of an image, because with channels last in
        # memory, torch is slow at multiplying by one number per channel: it takes three numbers at a time.
        scale = unit * torch.tensor(std, dtype=torch.float64)
        offset = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._factor, self._offset = (
            number.float().view(1, -1, 1, 1).expand(1, *shape).contiguous().to(self.labels.device)
            for number in (1 / scale, offset)
        )
        self._memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalized images and the labels of ``rows``."""
        return self.normalize(_rows(self.images, rows)), self.labels[rows]

    def normalize(self, images: Tensor) -> Tensor:
        """Turn ``images``, (N, C, H, W), into normalized float32 in this split's memory format."""
        # Copy even float32 images, which may be a view of all examples.
        floats = images.to(torch.float32, memory_format=self._memory_format, copy=True)
        return floats.mul_(self._factor).sub_(self._offset)

    def batches(self, size: int) -> SplitBatches:
        """All examples in their fixed order, in batches of ``size``."""
        return SplitBatches(self, size)

    def first(self, examples: int | None) -> Split:
        """The first ``examples`` examples (None: all), sharing memory with this split."""
        split = copy.copy(self)
        split.images, split.labels = self.images[:examples], self.labels[:examples]
        return split

    def to_memory_format(self, memory_format: torch.memory_format) -> Split:
        """The same split with images and batches in ``memory_format``; images that have it already are shared."""
        split = copy.copy(self)
        split._memory_format = memory_format
        if self.resident:  # transposed once, not batch by batch
            split.images = self.images.contiguous(memory_format=memory_format)
        split._factor, split._offset = (
            number.contiguous(memory_format=memory_format) for number in (self._factor, self._offset)
        )
        return split

    def training_view(self, augmentation: Any, seed: int) -> AugmentedExamples:
        """The examples as the training with ``seed`` sees them, with ``augmentation`` (see `AugmentedExamples`)."""
        return AugmentedExamples(self, augmentation, seed)


def _rows(images: Tensor, rows: Tensor | slice) -> Tensor:
    """``images[rows]``, by ``index_select``: on a CPU it copies whole images, while indexing copies byte by byte."""
    if not isinstance(rows, Tensor):
        return images[rows]
    if images.is_contiguous():
        return images.index_select(0, rows)
    return images.movedim(1, 3).index_select(0, rows).movedim(3, 1)  # its result is contiguous: channels stay last


@dataclass(frozen=True)
class SplitBatches:
    """A split in batches of ``size`` (the last may be smaller), or those batches that ``which`` selects."""

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
    """The images of ``split`` as a training sees them: augmented differently in every epoch.

    The augmentation of an image depends only on ``seed``, the epoch and the image's row, not on the order or the
    batches. The draws keep their address in device memory, because a captured CUDA graph reads them there.
    """

    def __init__(self, split: Split, augmentation: Augmentation | None, seed: int) -> None:
        self._split, self._augmentation, self._seed = split, augmentation, seed
        self._draws: Tensor | None = None  # (numbers per image, N), made in the first epoch

    def __len__(self) -> int:
        return len(self._split)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of each image for ``epoch``."""
        if self._augmentation:
            generator = make_generator(self._seed, "augment", epoch)
            draws = self._augmentation.draws(self._split.images.shape, generator)
            if self._draws is None:
                self._draws = draws.to(self._split.labels.device)
            else:
                self._draws.copy_(draws)

    def prefetch(self, order: Tensor, start: int) -> Tensor:
        """Prepare to gather rows in this ``order`` from position ``start``; returns ``order`` as `gather` needs it."""
        return order.to(self._split.labels.device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalized images of this epoch and the labels of ``rows``."""
        if self._augmentation is None or self._draws is None:
            return self._split.gather(rows)
        images = self._augmentation.apply(_rows(self._split.images, rows), self._draws[:, rows])
        return self._split.normalize(images), self._split.labels[rows]
