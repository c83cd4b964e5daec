"""A data set's settings, and its splits: uint8 images on the device, normalised batch by batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoothout.common.enums import keep_members
from smoothout.common.rng import stream
from smoothout.data.augment import Augment, CropFlip
from smoothout.data.datasets import SOURCES, Arrays, DataError, Name, load

Half = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Images:
    """Which images, how they are normalised and augmented, how many of them, and what a training is tested on.

    Args:
        name: digits, mnist, cifar10 or cifar100.
        mean: subtracted from pixels in [0, 1], one number a channel.
        std: divided by, one number a channel.
        train_examples: use only the first so many training images; None is all.
        test_examples: likewise for the test split.
        augment: what a training does to its images: none, or crop_flip; what is measured is never augmented.
        border: colour of the padding of crop_flip, red, green and blue; grey images take the first.
        held_out: so many training images are not learnt from but stand in for the test split, which stays unseen: for
            choosing settings. They are the first of one random order, the same for every seed, so that larger sets
            contain smaller ones; the end of a file may be no fair sample (digits come writer by writer). The limits
            on examples apply to the images that are left, and to those held out.
    """

    name: Name
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int | None = None
    test_examples: int | None = None
    augment: Augment = Augment.none
    border: tuple[int, ...] = (127, 127, 127)
    held_out: int | None = None
    resident: ClassVar[bool] = True  # on the device as a whole

    def __post_init__(self) -> None:
        keep_members(self)
        check_numbers(self)
        if len(self.border) != 3 or not all(0 <= value <= 255 for value in self.border):
            raise ValueError(f"border: must be red, green and blue, each from 0 to 255, not {list(self.border)}")

    def simplified(self) -> Images:
        """The plainest settings with the same outcome: a border matters where images are cropped, and its channels."""
        border = self.augmentation.border if self.augmentation else Images.border
        return replace(self, border=border if len(border) == 3 else border * 3)

    @property
    def augmentation(self) -> CropFlip | None:
        """What a training does to its images."""
        return CropFlip(self.border[: self.shape[0]]) if self.augment is Augment.crop_flip else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width, *channels = SOURCES[self.name].shape
        return (channels[0] if channels else 1, height, width)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return SOURCES[self.name].classes

    @property
    def usual_examples(self) -> tuple[int, int]:
        """How many training and test images there are to be expected, limits applied."""
        return usual_examples(self, SOURCES[self.name].examples)

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """The training split, the test split and the fingerprint of the whole data set. Raises DataError."""
        arrays = load(self.name, folder, download)
        train, test = self._splits(arrays, device)
        return train, test, arrays.fingerprint()

    def _splits(self, arrays: Arrays, device: torch.device) -> tuple[Split, Split]:
        halves = zip(self._halves(arrays), (self.train_examples, self.test_examples), strict=True)
        train, test = (
            Split(
                torch.from_numpy(images[:limit]).reshape(len(images[:limit]), *images.shape[1:3], -1).to(device),
                torch.from_numpy(labels[:limit]).to(device),
                self.mean,
                self.std,
            )
            for (images, labels), limit in halves
        )
        return train, test

    def _halves(self, arrays: Arrays) -> tuple[Half, Half]:
        """Images and labels to learn from, and to test on."""
        images, labels = arrays.x_train, arrays.y_train
        if self.held_out is None:
            return (images, labels), (arrays.x_test, arrays.y_test)
        check_held_out(self.held_out, len(labels))
        order = torch.randperm(len(labels), generator=stream(0, "held_out")).numpy()
        held, left = order[: self.held_out], np.sort(order[self.held_out :])
        return (images[left], labels[left]), (images[held], labels[held])


def check_numbers(data: Any) -> None:
    """Raise ValueError unless the normalisation of ``data`` fits its channels and its limits are whole numbers > 0."""
    if not len(data.mean) == len(data.std) == data.shape[0]:
        raise ValueError(f"mean, std: {data.name} has {data.shape[0]} channel(s), so each needs as many numbers")
    if not all(math.isfinite(m) for m in data.mean) or not all(math.isfinite(s) and s > 0 for s in data.std):
        raise ValueError(f"mean, std: must be finite, std above 0, not {data.mean}, {data.std}")
    for name, none in (("train_examples", "all"), ("test_examples", "all"), ("held_out", "none")):
        value = getattr(data, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be null ({none}) or at least 1, not {value}")


def usual_examples(data: Any, whole: tuple[int, int]) -> tuple[int, int]:
    """How many training and test images ``data`` uses of those that there are, ``whole``."""
    train, test = whole
    if data.held_out is not None:
        train, test = max(train - data.held_out, 0), data.held_out
    return min(train, data.train_examples or train), min(test, data.test_examples or test)


def check_held_out(held_out: int, images: int) -> None:
    """Raise DataError unless ``held_out`` of so many training images leave some to learn from."""
    if held_out >= images:
        raise DataError(f"data.held_out: {held_out} leaves none of the {images} training images to learn")


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

    def take(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalised images and the labels of ``rows``."""
        return self.normalised(_rows(self.images, rows)), self.labels[rows]

    def normalised(self, images: Tensor) -> Tensor:
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

    def laid_out(self, layout: torch.memory_format) -> Split:
        """The same examples, whose batches lie in memory as ``layout`` says, sharing memory with this split."""
        other = copy.copy(self)
        other._layout = layout
        return other

    def learnt(self, augmentation: Any, seed: int) -> Learnt:
        """What a training of ``seed`` learns from; ``augmentation`` is of the kind that goes with these examples."""
        return Examples(self, augmentation, seed)


def _rows(images: Tensor, rows: Tensor | slice) -> Tensor:
    """``images[rows]``; on a CPU, ``index_select`` copies an image at a time, where indexing copies byte by byte."""
    return images.index_select(0, rows) if isinstance(rows, Tensor) else images[rows]


class Learnt(Protocol):
    """What the loop asks of that which a training learns from."""

    def __len__(self) -> int: ...
    def at(self, epoch: int) -> None:
        """Draw what happens to each image in ``epoch``."""

    def awaited(self, order: Tensor, start: int) -> Tensor:
        """Be told the ``order`` in which rows are taken, from ``start`` on; back on the device `take` wants."""

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
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
            yield self.split.take(slice(start, start + self.size))


class Examples:
    """What a training learns from: ``split``, of which ``augmentation`` makes other images every epoch.

    What happens to an image depends on ``seed``, the epoch and the image's row alone: on no order, batch or ghost
    batch. The draws keep their place in the device's memory, where a recorded update finds them.
    """

    def __init__(self, split: Split, augmentation: CropFlip | None, seed: int) -> None:
        self._split, self._augmentation, self._seed = split, augmentation, seed
        self._draws = torch.zeros(3, len(split) if augmentation else 0, dtype=torch.int64, device=split.labels.device)

    def __len__(self) -> int:
        return len(self._split)

    def at(self, epoch: int) -> None:
        """Draw what happens to each image in ``epoch``."""
        if self._augmentation:
            self._draws.copy_(self._augmentation.draws(len(self._split), stream(self._seed, "augment", epoch)))

    def awaited(self, order: Tensor, start: int) -> Tensor:
        """``order`` on the device: there is nothing to prepare."""
        return order.to(self._split.labels.device)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised images, as this epoch shows them, and the labels of ``rows``."""
        if not self._augmentation:
            return self._split.take(rows)
        images = self._augmentation.applied(_rows(self._split.images, rows), self._draws[:, rows])
        return self._split.normalised(images), self._split.labels[rows]
