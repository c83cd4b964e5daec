"""Settings of a data set that is loaded as arrays: all examples lie on the device, and are normalized batch by batch.

`load` imports torch itself: the settings can be read without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import DataError
from smoothout.data.augment import AffineFlip, Augment, Augmentation, CropFlip
from smoothout.data.datasets import DATASETS, SPECS, Arrays, Collection, DatasetName, Images, load

if TYPE_CHECKING:
    import torch

    from smoothout.data.split import Split

ImagesAndLabels = tuple[Images, NDArray[np.int64]]


@dataclass(frozen=True)
class ImageSettings(ABC):
    """Settings of image data: which and how many images, normalization, and an optional validation split.

    To choose settings without the test split, hold out training images, which then replace it. They are the first
    images of a random order that is the same for every seed, so that larger validation splits contain smaller ones.
    Limits apply to the remaining training images and to the validation images.
    """

    name: DatasetName | Collection
    mean: tuple[float, ...]  # subtracted from pixels in [0, 1], one number per channel
    std: tuple[float, ...]  # divisor after that, one number per channel
    train_examples: int | None = None  # how many training images to use, the first ones; None is all
    test_examples: int | None = None
    validation_size: int | None = field(default=None, metadata={"recorded_as": "held_out"})  # how many are held out

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean, std: must have one number per channel, {self.shape[0]} for {self.name}")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"mean, std: must be finite, std above 0, not {self.mean}, {self.std}")
        for name, meaning in (("train_examples", "all"), ("test_examples", "all"), ("validation_size", "none")):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be null ({meaning}) or at least 1, not {value}")

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what a network sees."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return SPECS[self.name].classes

    @property
    def expected_sizes(self) -> tuple[int, int]:
        """How many training and test images to expect, limits applied."""
        train, test = SPECS[self.name].examples
        if self.validation_size is not None:
            train, test = max(train - self.validation_size, 0), self.validation_size
        return min(train, self.train_examples or train), min(test, self.test_examples or test)

    def check_validation_size(self, images: int) -> None:
        """Raise DataError if the validation split leaves none of the training ``images``."""
        if self.validation_size is not None and self.validation_size >= images:
            raise DataError(
                f"data.validation_size: {self.validation_size} of {images} training images leaves none to train on;"
                f" use less than {images}"
            )


@dataclass(frozen=True)
class ImageArrays(ImageSettings):
    """Images, or vectors of features, that lie on the device; evaluation is never augmented."""

    recorded_as: ClassVar[str] = "Images"
    resident: ClassVar[bool] = True  # all images lie on the device

    name: DatasetName
    augment: Augment = Augment.none
    # Color that an augmentation shows outside an image: red, green and blue. Gray images use the first number.
    pad_color: tuple[int, ...] = field(default=(127, 127, 127), metadata={"recorded_as": "border"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.pad_color) != 3 or not all(0 <= value <= 255 for value in self.pad_color):
            raise ValueError(f"pad_color: must be red, green and blue, each from 0 to 255, not {list(self.pad_color)}")
        if self.augment is not Augment.none and not DATASETS[self.name].has_images:
            raise ValueError(
                f"augment: must be none for {self.name}, whose examples are not images, not {self.augment}"
            )

    def canonicalized(self) -> ImageArrays:
        """The simplest settings with the same outcome: numbers of ``pad_color`` that have no effect are replaced."""
        border = self.augmentation.border if self.augmentation else ImageArrays.pad_color
        return replace(self, pad_color=border if len(border) == 3 else border * 3)

    @property
    def augmentation(self) -> Augmentation | None:
        """Training-time augmentation; None if there is none."""
        kinds: dict[Augment, type[CropFlip | AffineFlip]] = {
            Augment.crop_flip: CropFlip,
            Augment.affine_flip: AffineFlip,
        }
        return kinds[self.augment](self.pad_color[: self.shape[0]]) if self.augment in kinds else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image; (1, 1, F) of F features."""
        spec = DATASETS[self.name]
        height, width, *channels = spec.shape if spec.has_images else (1, *spec.shape)
        return (channels[0] if channels else 1, height, width)

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """Load the training split, the test split and the fingerprint of the whole data set. Raises DataError."""
        arrays = load(self.name, folder, download)
        train, test = self._select(arrays)
        splits = self._to_split(train, self.train_examples, device), self._to_split(test, self.test_examples, device)
        return *splits, arrays.fingerprint()

    def _to_split(self, examples: ImagesAndLabels, limit: int | None, device: torch.device) -> Split:
        import torch  # noqa: PLC0415

        from smoothout.data.split import Split  # noqa: PLC0415

        images, labels = (torch.from_numpy(array[:limit]) for array in examples)
        channels, height, width = self.shape
        images = images.reshape(-1, height, width, channels)  # gray images have no channel dimension
        return Split(images.to(device), labels.to(device), self.mean, self.std)

    def _select(self, arrays: Arrays) -> tuple[ImagesAndLabels, ImagesAndLabels]:
        """Images and labels for training and testing; held-out training images, if any, replace the test split."""
        images, labels = arrays.x_train, arrays.y_train
        if self.validation_size is None:
            return (images, labels), (arrays.x_test, arrays.y_test)
        self.check_validation_size(len(labels))
        import torch  # noqa: PLC0415

        from smoothout.common.rng import make_generator  # noqa: PLC0415

        # The last rows of a file may not be a fair sample: the digits are sorted by writer.
        order = torch.randperm(len(labels), generator=make_generator(0, "held_out")).numpy()
        validation, training = order[: self.validation_size], np.sort(order[self.validation_size :])
        return (images[training], labels[training]), (images[validation], labels[validation])
