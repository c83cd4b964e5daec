"""A data set's settings, and its splits: uint8 images on the device, normalised batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import DataError
from smoothout.common.rng import make_generator
from smoothout.data.augment import Augment, CropFlip
from smoothout.data.datasets import DATASETS, Arrays, DatasetName, load
from smoothout.data.split import Split

ImagesAndLabels = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class ImageArrays:
    """Which images, how they are normalised and augmented, how many of them, and what a training is tested on.

    Args:
        name: digits, mnist, cifar10 or cifar100.
        mean: subtracted from pixels in [0, 1], one number a channel.
        std: divided by, one number a channel.
        train_examples: use only the first so many training images; None is all.
        test_examples: likewise for the test split.
        augment: what a training does to its images: none, or crop_flip; what is measured is never augmented.
        pad_color: colour of the padding of crop_flip, red, green and blue; grey images take the first.
        validation_size: so many training images are not learnt from but stand in for the test split, which stays
            unseen: for choosing settings. They are the first of one random order, the same for every seed, so that
            larger sets contain smaller ones; the end of a file may be no fair sample (digits come writer by writer).
            The limits on examples apply to the images that are left, and to those held out.
    """

    recorded_as: ClassVar[str] = "Images"

    name: DatasetName
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int | None = None
    test_examples: int | None = None
    augment: Augment = Augment.none
    pad_color: tuple[int, ...] = field(default=(127, 127, 127), metadata={"recorded_as": "border"})
    validation_size: int | None = field(default=None, metadata={"recorded_as": "held_out"})
    resident: ClassVar[bool] = True  # on the device as a whole

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_numbers(self)
        if len(self.pad_color) != 3 or not all(0 <= value <= 255 for value in self.pad_color):
            raise ValueError(f"pad_color: must be red, green and blue, each from 0 to 255, not {list(self.pad_color)}")

    def canonicalized(self) -> ImageArrays:
        """The plainest settings with the same outcome: a border matters where images are cropped, and its channels."""
        border = self.augmentation.border if self.augmentation else ImageArrays.pad_color
        return replace(self, pad_color=border if len(border) == 3 else border * 3)

    @property
    def augmentation(self) -> CropFlip | None:
        """What a training does to its images."""
        return CropFlip(self.pad_color[: self.shape[0]]) if self.augment is Augment.crop_flip else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width, *channels = DATASETS[self.name].shape
        return (channels[0] if channels else 1, height, width)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return DATASETS[self.name].classes

    @property
    def expected_sizes(self) -> tuple[int, int]:
        """How many training and test images there are to be expected, limits applied."""
        return expected_sizes(self, DATASETS[self.name].examples)

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

    def _halves(self, arrays: Arrays) -> tuple[ImagesAndLabels, ImagesAndLabels]:
        """Images and labels to learn from, and to test on."""
        images, labels = arrays.x_train, arrays.y_train
        if self.validation_size is None:
            return (images, labels), (arrays.x_test, arrays.y_test)
        check_validation_size(self.validation_size, len(labels))
        order = torch.randperm(len(labels), generator=make_generator(0, "held_out")).numpy()
        held, left = order[: self.validation_size], np.sort(order[self.validation_size :])
        return (images[left], labels[left]), (images[held], labels[held])


def check_numbers(data: Any) -> None:
    """Raise ValueError unless the normalisation of ``data`` fits its channels and its limits are whole numbers > 0."""
    if not len(data.mean) == len(data.std) == data.shape[0]:
        raise ValueError(f"mean, std: {data.name} has {data.shape[0]} channel(s), so each needs as many numbers")
    if not all(math.isfinite(m) for m in data.mean) or not all(math.isfinite(s) and s > 0 for s in data.std):
        raise ValueError(f"mean, std: must be finite, std above 0, not {data.mean}, {data.std}")
    for name, none in (("train_examples", "all"), ("test_examples", "all"), ("validation_size", "none")):
        value = getattr(data, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be null ({none}) or at least 1, not {value}")


def expected_sizes(data: Any, whole: tuple[int, int]) -> tuple[int, int]:
    """How many training and test images ``data`` uses of those that there are, ``whole``."""
    train, test = whole
    if data.validation_size is not None:
        train, test = max(train - data.validation_size, 0), data.validation_size
    return min(train, data.train_examples or train), min(test, data.test_examples or test)


def check_validation_size(held_out: int, images: int) -> None:
    """Raise DataError unless ``held_out`` of so many training images leave some to learn from."""
    if held_out >= images:
        raise DataError(f"data.validation_size: {held_out} leaves none of the {images} training images to learn")
