"""The data sets: find, check and download arrays; at the end, what image folders must contain."""

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

from smoothout.common.errors import DataError, needs_experiments, one_line
from smoothout.common.files import atomic_write
from smoothout.common.machine_errors import machine_error_hint
from smoothout.data.idx_files import read_idx_folder


class DatasetName(StrEnum):
    """Data sets that are loaded as arrays."""

    digits = "digits"
    mnist = "mnist"
    cifar10 = "cifar10"
    cifar100 = "cifar100"
    fashion_mnist = "fashion_mnist"
    timit = "timit"


Images = NDArray[np.uint8] | NDArray[np.float32]


class Arrays(NamedTuple):
    """uint8 images, N x H x W or N x H x W x 3, or float32 features, N x F; and int64 labels, of both splits."""

    x_train: Images
    y_train: NDArray[np.int64]
    x_test: Images
    y_test: NDArray[np.int64]

    def fingerprint(self) -> str:
        """SHA-256 over all images and labels, which identifies the data of a record."""
        digest = hashlib.sha256()
        for array in self:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


KEYS = Arrays._fields


@dataclass(frozen=True)
class DatasetSpec:
    """Properties of a data set, and how to get it if it is not in the data folder."""

    shape: tuple[int, ...]  # of an image: height, width, and 3 for colors; of features, their number
    classes: int  # labels lie in 0 to ``classes`` - 1
    examples: tuple[int, int]  # training and test images of the whole set, for estimates of time
    fetch: Callable[[Path], Arrays] | None = None  # gets a temporary folder; None: the user must provide the file
    embedded: bool = False  # ``fetch`` needs no network, and its arrays are not saved
    installed: Path | None = None  # where a Debian package puts its gzipped IDX files, relative to /
    sha256: str | None = None  # the `Arrays.fingerprint` that fetched or installed arrays must have; None: any

    @property
    def has_images(self) -> bool:
        """Whether an example is an image, of uint8 pixels, and not a vector of float32 features."""
        return len(self.shape) > 1


def load(name: DatasetName, folder: Path, download: bool = True) -> Arrays:
    """The arrays of ``name``, from ``folder``, from an installed package, or else from the network (if ``download``).

    A package may also be unpacked into ``folder``, without root; its files have the same relative path there as below
    /. Arrays from a package or the network are saved as ``NAME.npz``. Raises DataError, with a one-line message, if
    they are missing or corrupt; the disk is left unchanged then.
    """
    spec, path = DATASETS[name], folder / f"{name}.npz"
    if path.exists():
        return validated(read_npz(path), spec, str(path))
    for root in (folder, Path("/")):
        if spec.installed and (root / spec.installed).is_dir():
            arrays = Arrays(*read_idx_folder(root / spec.installed))
            return _saved(_verified(arrays, spec, str(root / spec.installed)), path)
    if spec.fetch is None:
        raise DataError(f"data: {name} was not found: save it as {path}, with the arrays {', '.join(KEYS)}")
    if spec.embedded:
        return validated(spec.fetch(folder), spec, name)
    hint = f"run `python scripts/prepare_data.py data={name}` with network access, or copy the file there"
    if not download:
        raise DataError(f"data: {name} was not found: looked for {path}; {hint}")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            arrays = _verified(spec.fetch(Path(scratch)), spec, f"{name} as downloaded")
    except Exception as error:
        if isinstance(error, DataError) or machine_error_hint(error):
            raise
        raise DataError(
            f"data: {name} was not found: looked for {path}, and the download failed ({one_line(error, 200)}); {hint}"
        ) from error
    return _saved(arrays, path)


def _saved(arrays: Arrays, path: Path) -> Arrays:
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, **arrays._asdict())
    return arrays


def _verified(arrays: Arrays, spec: DatasetSpec, origin: str) -> Arrays:
    """`validated` arrays with the digest that they must have. Raises DataError."""
    arrays = validated(arrays, spec, origin)
    if spec.sha256 not in (None, found := arrays.fingerprint()):
        raise DataError(f"data: {origin}: the SHA-256 of its arrays must be {spec.sha256}, not {found}")
    return arrays


def read_npz(path: Path) -> Arrays:
    """The four arrays of an npz file. Pickled content is refused. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS if key in file}
    except Exception as error:  # numpy, zipfile and zlib raise almost any exception on a corrupt file
        if machine_error_hint(error):
            raise
        # NumPy takes every file that it does not know for a pickle.
        reason = "not NumPy's, or pickled objects" if "pickle" in str(error) else one_line(error, 200)
        raise DataError(f"data: {path} is corrupt or not an npz file ({reason})") from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise DataError(f"data: {path} lacks {', '.join(missing)}; it must contain {', '.join(KEYS)}")
    return Arrays(**arrays)


def validated(arrays: Arrays, spec: DatasetSpec, origin: str) -> Arrays:
    """``arrays`` with int64 labels. Raises DataError if they do not match ``spec``; ``origin`` names them."""
    checked = []
    shape, dtype = " x ".join(map(str, ("N", *spec.shape))), np.dtype(np.uint8 if spec.has_images else np.float32)
    for split in ("train", "test"):
        images, labels = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        problem = ""
        if images.dtype != dtype or images.shape[1:] != spec.shape or len(images) == 0:
            problem = f"x_{split} must be {dtype}, {shape}, N > 0, not {images.dtype} {images.shape}"
        elif not np.isfinite(images).all():
            problem = f"x_{split} must be finite, but {np.sum(~np.isfinite(images))} entries are not"
        elif labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            problem = f"y_{split} must be {len(images)} integers, not {labels.dtype} {labels.shape}"
        elif labels.min() < 0 or labels.max() >= spec.classes:
            problem = f"y_{split} must lie in 0..{spec.classes - 1}, not {labels.min()}..{labels.max()}"
        if problem:
            raise DataError(f"data: {origin}: {problem}")
        checked += [images, labels.astype(np.int64)]
    return Arrays(*checked)


@needs_experiments()
def _digits(_: Path) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8 x 8; every fifth one is a test image."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow to import, and only this set needs it)

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    test = np.arange(len(images)) % 5 == 4
    return Arrays(images[~test], labels[~test], images[test], labels[test])


def _torchvision(dataset: str) -> Callable[[Path], Arrays]:
    def fetch(scratch: Path) -> Arrays:
        from smoothout.common.torchvision_compat import import_torchvision  # noqa: PLC0415  (only to download)

        download = getattr(import_torchvision().datasets, dataset)
        train, test = (download(str(scratch), train=train, download=True) for train in (True, False))
        return Arrays(*(np.asarray(array) for array in (train.data, train.targets, test.data, test.targets)))

    return fetch


DATASETS = {
    DatasetName.digits: DatasetSpec((8, 8), 10, (1438, 359), _digits, embedded=True),
    DatasetName.mnist: DatasetSpec((28, 28), 10, (60_000, 10_000), _torchvision("MNIST")),
    DatasetName.cifar10: DatasetSpec((32, 32, 3), 10, (50_000, 10_000), _torchvision("CIFAR10")),
    DatasetName.cifar100: DatasetSpec((32, 32, 3), 100, (50_000, 10_000), _torchvision("CIFAR100")),
    DatasetName.fashion_mnist: DatasetSpec(
        (28, 28),
        10,
        (60_000, 10_000),
        _torchvision("FashionMNIST"),
        installed=Path("usr/share/datasets/fashion-mnist"),
        sha256="ece172613115fb18b120bec8f6c02271af90b8b8f0a5af5c51cbd5ceed68e619",
    ),
    DatasetName.timit: DatasetSpec((360,), 1973, (721_329, 310_621)),  # Keskar et al., Table 5
}


class Collection(StrEnum):
    """Data sets that are read from image folders."""

    imagenette = "imagenette"
    imagenet = "imagenet"


class CollectionSpec(NamedTuple):
    """What an image folder must contain: classes, and training and test images (for estimates of time)."""

    classes: int
    examples: tuple[int, int]


COLLECTIONS = {
    Collection.imagenette: CollectionSpec(10, (9469, 3925)),
    Collection.imagenet: CollectionSpec(1000, (1_281_167, 50_000)),
}

SPECS = DATASETS | COLLECTIONS
