"""Where images come from: NAME.npz in the data folder, torchvision's own download, or scikit-learn's digits.

Everything is checked before it is used, and a download becomes NAME.npz, whole or not at all.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoothout.common.errors import DataError
from smoothout.common.files import atomic_write
from smoothout.common.machine_errors import machine_error_hint

KEYS = ("x_train", "y_train", "x_test", "y_test")


class DatasetName(StrEnum):
    """The data sets that can be loaded."""

    digits = "digits"
    mnist = "mnist"
    cifar10 = "cifar10"
    cifar100 = "cifar100"


class Arrays(NamedTuple):
    """uint8 images, N x H x W or N x H x W x 3, and int64 labels, of both splits."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]

    def fingerprint(self) -> str:
        """SHA-256 over all images and labels: which data a record was made from."""
        digest = hashlib.sha256()
        for array in self:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set must look like, and how it is had when the data folder lacks it; None is not at all."""

    shape: tuple[int, ...]
    classes: int
    examples: tuple[int, int]  # training and test images of the whole set, for estimates of time
    fetch: Callable[[Path], Arrays] | None = None
    embedded: bool = False


def load(name: DatasetName, folder: Path, download: bool = True) -> Arrays:
    """The arrays of ``name``, from ``folder`` or, where that lacks them, from the network (``download``).

    Raises DataError, one line, when they are damaged, or cannot be had; nothing is left on the disk then.
    """
    source = DATASETS[name]
    path = folder / f"{name}.npz"
    if path.exists():
        return checked(read_npz(path), source, str(path))
    if source.fetch is None:
        raise DataError(f"data: {name} was not found: put it there as {path}, with {', '.join(KEYS)}")
    if source.embedded:
        return checked(source.fetch(folder), source, name)
    hint = f"run `python scripts/prepare_data.py data={name}` where there is a network, or put the file there"
    if not download:
        raise DataError(f"data: {name} was not found: looked for {path}; {hint}")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            arrays = checked(source.fetch(Path(scratch)), source, name)
    except Exception as error:
        if isinstance(error, DataError) or machine_error_hint(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"data: {name} was not found: looked for {path}, and the download failed ({reason}); {hint}"
        ) from error
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, **arrays._asdict())
    return arrays


def read_npz(path: Path) -> Arrays:
    """The four arrays of an npz file; pickled content is refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in KEYS if key in file}
    except Exception as error:  # numpy, zipfile and zlib raise almost anything on a file that is no sound npz
        if machine_error_hint(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"data: {path} is damaged or no npz file ({reason})") from error
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise DataError(f"data: {path} lacks {', '.join(missing)}; it must hold {', '.join(KEYS)}")
    return Arrays(**found)


def checked(arrays: Arrays, source: DatasetSpec, origin: str) -> Arrays:
    """``arrays`` with int64 labels, or a DataError that names what is wrong with them and their ``origin``."""
    found = []
    for split in ("train", "test"):
        images, labels = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        wanted = " x ".join(map(str, ("N", *source.shape)))
        if images.dtype != np.uint8 or images.shape[1:] != source.shape or len(images) == 0:
            raise DataError(
                f"data: {origin}: x_{split} must be uint8, {wanted}, N > 0; it is {images.dtype} {images.shape}"
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"data: {origin}: y_{split} must be {len(images)} integers; it is {labels.dtype} {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= source.classes:
            raise DataError(
                f"data: {origin}: y_{split} must lie in 0..{source.classes - 1}; it has {labels.min()}..{labels.max()}"
            )
        found += [images, labels.astype(np.int64)]
    return Arrays(*found)


def _digits(_: Path) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8 x 8; every fifth one is a test image."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow to import, and only this set needs it)

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    test = np.arange(len(images)) % 5 == 4
    labels = bunch.target.astype(np.int64)
    return Arrays(images[~test], labels[~test], images[test], labels[test])


def _torchvision(dataset: str) -> Callable[[Path], Arrays]:
    def fetch(scratch: Path) -> Arrays:
        from smoothout.common.torchvision_compat import import_torchvision  # noqa: PLC0415  (not needed where the npz file is there)

        make = getattr(import_torchvision().datasets, dataset)
        train, test = (make(str(scratch), train=train, download=True) for train in (True, False))
        return Arrays(*(np.asarray(a) for a in (train.data, train.targets, test.data, test.targets)))

    return fetch


DATASETS = {
    DatasetName.digits: DatasetSpec((8, 8), 10, (1438, 359), _digits, embedded=True),
    DatasetName.mnist: DatasetSpec((28, 28), 10, (60_000, 10_000), _torchvision("MNIST")),
    DatasetName.cifar10: DatasetSpec((32, 32, 3), 10, (50_000, 10_000), _torchvision("CIFAR10")),
    DatasetName.cifar100: DatasetSpec((32, 32, 3), 100, (50_000, 10_000), _torchvision("CIFAR100")),
}
