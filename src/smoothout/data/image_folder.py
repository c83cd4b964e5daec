"""Settings of a data set whose images lie in one folder per class.

Methods that load images import torch, Pillow and torchvision themselves: the settings can be read without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from smoothout.common.errors import DataError
from smoothout.data.crops import Crop
from smoothout.data.datasets import Collection
from smoothout.data.image_arrays import ImageSettings

if TYPE_CHECKING:
    import torch

    from smoothout.data.split import Split


class OnCorrupt(StrEnum):
    """What to do with images that cannot be decoded."""

    stop = "stop"
    skip = "skip"


@dataclass(frozen=True)
class ImageFolder(ImageSettings):
    """Images in <data folder>/<name>/{train,val}/<class>/, the layout of torchvision's ImageFolder and ImageNet.

    The rows of a split are its files in one fixed random order, because folders are sorted by class. Limits and the
    validation split take the first rows. Evaluation uses the center crop of the resized image. ``draft`` decodes large
    JPEGs at 1/2, 1/4 or 1/8 of their resolution if that leaves twice the resolution of the crop: faster for images of
    more than four times ``resize_size``, with slightly different pixels. ``on_corrupt`` stops at the first image that
    cannot be decoded, or reads all files once at the start, and leaves such images out with a warning that names them.
    """

    recorded_as: ClassVar[str] = "Photos"
    resident: ClassVar[bool] = False  # batches are read from disk

    name: Collection
    augment: Crop = Crop.none
    crop_size: int = field(default=224, metadata={"recorded_as": "side"})  # of the square that a network sees
    resize_size: int = field(default=256, metadata={"recorded_as": "short"})  # shorter side of the resized image
    draft: bool = False
    on_corrupt: OnCorrupt = field(default=OnCorrupt.stop, metadata={"recorded_as": "damaged", "identity": False})
    # Processes that decode ahead of use; None is one per core, 0 decodes on demand. Affects speed only.
    workers: int | None = field(default=None, metadata={"identity": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.crop_size <= self.resize_size:
            raise ValueError(
                f"crop_size, resize_size: need 1 <= crop_size <= resize_size, not {self.crop_size}, {self.resize_size}"
            )
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: must be null (one per core) or a whole number >= 0, not {self.workers}")

    @property
    def augmentation(self) -> Crop | None:
        """Training-time augmentation; None if there is none."""
        return None if self.augment is Crop.none else self.augment

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what a network sees."""
        return 3, self.crop_size, self.crop_size

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """Find the images in the data folder; returns the training split, the test split and their fingerprint.

        ``download`` has no effect: ImageNet requires an account. Raises DataError.
        """
        from smoothout.data.image_files import available_cores, drop_corrupt, find_images, fingerprint_of  # noqa: PLC0415
        from smoothout.data.image_loader import ImageFolderSplit  # noqa: PLC0415

        train, test = (find_images(self.name, folder / self.name / part, self.classes) for part in ("train", "val"))
        if train.classes != test.classes:
            raise DataError(f"data: {folder / self.name}: train and val must have the same class folders")
        workers = available_cores() if self.workers is None else self.workers

        # The order matters: corrupt files must not count as validation images or towards a limit.
        if self.on_corrupt is OnCorrupt.skip:
            train, test = (drop_corrupt(files, workers) for files in (train, test))
        fingerprint = fingerprint_of(folder / self.name, [*train.paths, *test.paths])
        if self.validation_size is not None:
            self.check_validation_size(len(train.paths))
            train, test = train.subset(slice(self.validation_size, None)), train.subset(slice(self.validation_size))
        limited = train.subset(slice(self.train_examples)), test.subset(slice(self.test_examples))
        train_split, test_split = (ImageFolderSplit(files, self, workers, device) for files in limited)
        return train_split, test_split, fingerprint
