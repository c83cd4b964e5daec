"""A data set's settings, and its splits: uint8 images on the device, normalised batch by batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smoothout.data.sources import SOURCES, Arrays, Name, load


@dataclass(frozen=True)
class Images:
    """Which images, how they are normalised, and how many of them.

    Args:
        name: digits, mnist, cifar10 or cifar100.
        mean: subtracted from pixels in [0, 1], one number a channel.
        std: divided by, one number a channel.
        train_examples: use only the first so many training images; None is all.
        test_examples: likewise for the test split.
    """

    name: Name
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int | None = None
    test_examples: int | None = None

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean, std: {self.name} has {self.shape[0]} channel(s), so each needs as many numbers")
        if not all(math.isfinite(m) for m in self.mean) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"mean, std: must be finite, std above 0, not {self.mean}, {self.std}")
        for field in ("train_examples", "test_examples"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field}: must be null (all) or at least 1, not {value}")

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
        whole = SOURCES[self.name].examples
        train, test = (n if limit is None else min(n, limit) for n, limit in zip(whole, self._limits, strict=True))
        return train, test

    @property
    def _limits(self) -> tuple[int | None, int | None]:
        return self.train_examples, self.test_examples

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """The training split, the test split and the fingerprint of the whole data set. Raises DataError."""
        arrays = load(self.name, folder, download)
        train, test = self._splits(arrays, device)
        return train, test, arrays.fingerprint()

    def _splits(self, arrays: Arrays, device: torch.device) -> tuple[Split, Split]:
        halves = zip((arrays.x_train, arrays.x_test), (arrays.y_train, arrays.y_test), self._limits, strict=True)
        train, test = (
            Split(
                torch.from_numpy(images[:limit]).reshape(len(images[:limit]), *images.shape[1:3], -1).to(device),
                torch.from_numpy(labels[:limit]).to(device),
                self.mean,
                self.std,
            )
            for images, labels, limit in halves
        )
        return train, test


class Split:
    """Images of one split on a device, as uint8 N x H x W x C; batches come out float32, N x C x H x W, normalised."""

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(), labels
        scale = 255 * torch.tensor(std, dtype=torch.float64)
        offset = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._factor = (1 / scale).float().view(-1, 1, 1).to(images.device)
        self._offset = offset.float().view(-1, 1, 1).to(images.device)
        self._layout = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalised images and the labels of ``rows``."""
        images = self.images[rows].to(torch.float32, memory_format=self._layout)
        return images.mul_(self._factor).sub_(self._offset), self.labels[rows]

    def batches(self, size: int) -> Batches:
        """All examples in their own order, in batches of ``size``, as often as one iterates."""
        return Batches(self, size)

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


@dataclass(frozen=True)
class Batches:
    """A split in batches of ``size`` (the last may be smaller); can be iterated many times."""

    split: Split
    size: int

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.split), self.size):
            yield self.split.take(slice(start, start + self.size))
