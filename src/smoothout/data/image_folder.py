"""Photographs in class folders: a data set's settings, what lies in its folders, and splits read as they are used."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import DataError
from smoothout.common.rng import make_generator
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import Crop, CropTransform
from smoothout.data.image_arrays import check_numbers, check_validation_size, expected_sizes
from smoothout.data.prefetch import Pixels, PrefetchReader, available_cores, checked, decode
from smoothout.data.split import Split, SplitBatches
from smoothout.data.transfer import sent

MAX_EVAL_BATCH = 250  # photographs in a batch that is only evaluated: more fill memory and are no faster


class Collection(StrEnum):
    """The collections of photographs that can be loaded."""

    imagenette = "imagenette"
    imagenet = "imagenet"


CLASSES = {Collection.imagenette: 10, Collection.imagenet: 1000}
EXAMPLES = {Collection.imagenette: (9469, 3925), Collection.imagenet: (1_281_167, 50_000)}


class OnCorrupt(StrEnum):
    """What is done about photographs that cannot be read."""

    stop = "stop"
    skip = "skip"


@dataclass(frozen=True)
class ImageFolder:
    """Photographs in <data folder>/<name>/{train,val}/<class>/, as torchvision's ImageFolder and ImageNet have them.

    Rows are a split's files in one fixed order by chance, for folders are sorted by class; limits take the first so
    many rows.

    Args:
        name: imagenette or imagenet.
        mean: subtracted from pixels in [0, 1], one number a channel.
        std: divided by, one number a channel.
        train_examples: use only so many training photographs; None is all.
        test_examples: likewise for the test split.
        augment: what a training does to them; what is measured is the centre of the resized photograph.
        crop_size: pixels of the square that a network sees.
        resize_size: pixels of the resized photograph's shorter side.
        draft: decode at a half, a quarter or an eighth of the resolution where that leaves twice what the piece needs:
            faster for photographs of more than four times ``resize_size``, and not quite the same pixels.
        validation_size: so many training photographs, the first rows, are learnt from no longer, and stand in for the
            test split.
        on_corrupt: stop at the first photograph that cannot be read; or read all files once before anything else, name
            those that cannot, and leave them out.
        workers: threads that read ahead; None is one a core, 0 reads when asked. Changes nothing but speed.
    """

    recorded_as: ClassVar[str] = "Photos"

    name: Collection
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int | None = None
    test_examples: int | None = None
    augment: Crop = Crop.none
    crop_size: int = field(default=224, metadata={"recorded_as": "side"})
    resize_size: int = field(default=256, metadata={"recorded_as": "short"})
    draft: bool = False
    validation_size: int | None = field(default=None, metadata={"recorded_as": "held_out"})
    on_corrupt: OnCorrupt = field(default=OnCorrupt.stop, metadata={"recorded_as": "damaged", "identity": False})
    workers: int | None = field(default=None, metadata={"identity": False})
    resident: ClassVar[bool] = False

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        check_numbers(self)
        if not 1 <= self.crop_size <= self.resize_size:
            raise ValueError(
                f"crop_size, resize_size: need 1 <= crop_size <= resize_size, not {self.crop_size}, {self.resize_size}"
            )
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: must be null (one a core) or a whole number >= 0, not {self.workers}")

    @property
    def augmentation(self) -> CropTransform | None:
        """What a training does to its photographs."""
        return None if self.augment is Crop.none else self._cropping

    @property
    def _cropping(self) -> CropTransform:
        return CropTransform(self.augment, self.crop_size, self.resize_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what a network sees."""
        return 3, self.crop_size, self.crop_size

    @property
    def classes(self) -> int:
        """The number of classes."""
        return CLASSES[self.name]

    @property
    def expected_sizes(self) -> tuple[int, int]:
        """How many training and test photographs there are to be expected, limits applied."""
        return expected_sizes(self, EXAMPLES[self.name])

    def load(
        self, folder: Path, device: torch.device, download: bool = True
    ) -> tuple[ImageFolderSplit, ImageFolderSplit, str]:
        """The training split, the test split and the fingerprint of the folders. Raises DataError.

        ``download`` is of no use: nobody may fetch ImageNet without an account.
        """
        train, test = (find_images(self, folder / self.name / part) for part in ("train", "val"))
        if train.classes != test.classes:
            raise DataError(f"data: {folder / self.name}: train and val have other classes")
        fingerprint = fingerprint_of(folder / self.name, [*train.paths, *test.paths])
        workers = available_cores() if self.workers is None else self.workers
        if self.on_corrupt is OnCorrupt.skip:
            train, test = (drop_corrupt(files, workers) for files in (train, test))
        if self.validation_size is not None:
            check_validation_size(self.validation_size, len(train.paths))
            train, test = train.subset(slice(self.validation_size, None)), train.subset(slice(self.validation_size))
        limited = (train.subset(slice(self.train_examples)), test.subset(slice(self.test_examples)))
        splits = [ImageFolderSplit(files, self, self._cropping, workers, device) for files in limited]
        return splits[0], splits[1], fingerprint


class ImageFiles(NamedTuple):
    """Files of one split, row by row, their labels, and the classes' names in the labels' order."""

    paths: Sequence[Path]
    labels: Tensor
    classes: list[str]

    def subset(self, rows: slice) -> ImageFiles:
        """Some of the rows."""
        return self._replace(paths=self.paths[rows], labels=self.labels[rows])


def find_images(data: ImageFolder, folder: Path) -> ImageFiles:
    """What ImageFolder finds in ``folder``, in an order by chance that depends on their number alone."""
    hint = f"it needs {data.classes} folders, one a class, with photographs in them"
    try:
        tree = import_torchvision().datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"data: {data.name} was not found: looked into {folder}; {hint}") from error
    if len(tree.classes) != data.classes:
        raise DataError(f"data: {folder} has {len(tree.classes)} folders of classes; {hint}")
    order = torch.randperm(len(tree.samples), generator=make_generator(0, "photographs"))
    paths = [Path(tree.samples[row][0]) for row in order.tolist()]
    return ImageFiles(paths, torch.tensor(tree.targets)[order], tree.classes)


def fingerprint_of(folder: Path, paths: Sequence[Path]) -> str:
    """SHA-256 over all names and sizes, sorted: which files a record was made from.

    Contents are left out: to read ImageNet's 150 GB takes longer than an epoch. Another selection or resolution, or a
    file cut short, is seen; a change that keeps a file's size is not.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def drop_corrupt(files: ImageFiles, workers: int) -> ImageFiles:
    """The rows whose files can be read; the others are named in a warning."""
    errors = checked(files.paths, workers)
    bad = [str(path) for path, error in zip(files.paths, errors, strict=True) if error]
    if bad:
        warnings.warn(f"data: {len(bad)} damaged photograph(s) left out: {', '.join(sorted(bad))}", stacklevel=2)
    kept = [row for row, error in enumerate(errors) if error is None]
    return files._replace(paths=[files.paths[row] for row in kept], labels=files.labels[kept])


class ImageFolderSplit(Split):
    """Photographs of one split, read and decoded as they are asked for; in all else like ``Split``."""

    resident: ClassVar[bool] = False

    def __init__(
        self, files: ImageFiles, data: ImageFolder, cropping: CropTransform, workers: int, device: torch.device
    ) -> None:
        self.labels = files.labels.to(device)
        self._files, self._cropping, self._draft = files, cropping, data.draft
        self._workers, self._device = workers, device
        self._normalise_by(data.mean, data.std)
        self._ahead = self._fresh_reader()

    def gather(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalised centres and the labels of ``rows``."""
        chosen = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows.cpu()
        return self.normalize(self._ahead.gather(chosen)), self.labels_of(chosen)

    def labels_of(self, rows: Tensor) -> Tensor:
        """The labels, on the device, of ``rows`` on the host; to index `labels` with them would wait for the device."""
        return sent(self._files.labels[rows], self._device)

    def batches(self, size: int) -> SplitBatches:
        """All photographs in their own order, in batches of ``size``, or of fewer where these would fill memory."""
        return SplitBatches(self, min(size, MAX_EVAL_BATCH))

    def first(self, examples: int | None) -> ImageFolderSplit:
        """The first ``examples`` photographs (None: all)."""
        part = copy.copy(self)
        part._files = self._files.subset(slice(examples))
        part.labels, part._ahead = self.labels[:examples], part._fresh_reader()
        return part

    def training_view(self, augmentation: Any, seed: int) -> ImageFolderExamples:
        """What a training learns from; ``augmentation`` is a Cropping, or None for the centres."""
        return ImageFolderExamples(self, self._reader(), augmentation or self._cropping, seed)

    def read(self, row: int, out: Pixels, cropping: CropTransform, generator: torch.Generator | None = None) -> None:
        """A photograph's piece into ``out``: the centre, or one drawn from ``generator``. Raises DataError."""
        cut = partial(cropping.sample_box, generator=generator)
        decode(self._files.paths[row], cut, out, draft=self._draft)

    def _reader(self) -> PrefetchReader:
        return PrefetchReader(self._cropping.side, self._workers, self._device)

    def _fresh_reader(self) -> PrefetchReader:
        reader = self._reader()
        reader.schedule(torch.arange(len(self)), partial(self.read, cropping=self._cropping))
        return reader


class ImageFolderExamples:
    """What a training learns from: photographs of which every epoch shows other pieces.

    A piece depends on ``seed``, the epoch and the photograph's row alone: on no order, batch or thread.
    """

    def __init__(self, split: ImageFolderSplit, reader: PrefetchReader, cropping: CropTransform, seed: int) -> None:
        self._split, self._reader, self._cropping, self._seed, self._epoch = split, reader, cropping, seed, 0

    def __len__(self) -> int:
        return len(self._split)

    def set_epoch(self, epoch: int) -> None:
        """Show other pieces: those of ``epoch``."""
        self._epoch = epoch

    def prefetch(self, order: Tensor, start: int) -> Tensor:
        """Begin to read the photographs of ``order`` from place ``start`` on; row numbers stay on the host."""
        self._reader.schedule(order[start:], partial(self._read, self._epoch))
        return order

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised pieces, as this epoch shows them, and the labels of ``rows``."""
        return self._split.normalize(self._reader.gather(rows)), self._split.labels_of(rows)

    def _read(self, epoch: int, row: int, out: Pixels) -> None:
        self._split.read(row, out, self._cropping, make_generator(self._seed, "augment", epoch, row))
