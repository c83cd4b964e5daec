"""The files of an image folder: list, label and fingerprint them, and find those that cannot be read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from smoothout.common.errors import DataError, one_line
from smoothout.common.machine_errors import machine_error_hint
from smoothout.common.rng import make_generator
from smoothout.common.torchvision_compat import import_torchvision


class ImageFiles(NamedTuple):
    """Paths and labels of one split, row by row, and the names of the classes in the order of the labels."""

    paths: Sequence[Path]
    labels: Tensor
    classes: list[str]

    def subset(self, rows: slice) -> ImageFiles:
        """The files of ``rows``."""
        return self._replace(paths=self.paths[rows], labels=self.labels[rows])


def find_images(name: str, folder: Path, classes: int) -> ImageFiles:
    """List ``folder`` with torchvision's ImageFolder, in a random order that depends only on the number of files.

    Raises DataError if the folder is missing, does not hold one folder for each of ``classes`` classes, has a class
    without images, or reaches images by two ways (a link to a folder above them).
    """
    hint = f"it must contain {classes} folders of images, one per class"
    if not folder.is_dir():
        raise DataError(f"data: {name} was not found: looked in {folder}; {hint}")
    listing = import_torchvision().datasets.ImageFolder(str(folder), allow_empty=True)
    if len(listing.classes) != classes:
        raise DataError(f"data: {folder} contains {len(listing.classes)} class folders; {hint}")
    if empty := set(listing.classes) - {listing.classes[label] for label in set(listing.targets)}:
        raise DataError(f"data: {folder / min(empty)} contains no images; {hint}")
    folders = Counter(os.path.realpath(place) for place in {Path(path).parent for path, _ in listing.samples})
    if twice := [place for place, ways in folders.items() if ways > 1]:
        raise DataError(f"data: {folder} contains {twice[0]} twice, through a link; images must be there once")
    # "photographs" is a recorded purpose: it decides which images belong to limited and validation splits
    order = torch.randperm(len(listing.samples), generator=make_generator(0, "photographs"))
    paths = [Path(listing.samples[row][0]) for row in order.tolist()]
    return ImageFiles(paths, torch.tensor(listing.targets)[order], listing.classes)


def fingerprint_of(folder: Path, paths: Sequence[Path]) -> str:
    """SHA-256 over the sorted names and sizes of ``paths``.

    Contents are left out, because reading ImageNet's 150 GB takes longer than an epoch. The fingerprint detects another
    selection or resolution and truncated files, but not a change that keeps a file's size.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size if path.exists() else 0  # a link that leads nowhere is a corrupt image
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + f"\0{size}\n".encode())
    return digest.hexdigest()


def drop_corrupt(files: ImageFiles, workers: int) -> ImageFiles:
    """Read every file once, with ``workers`` threads; drop files that cannot be decoded, and warn with their names.

    Raises DataError if none is left.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        errors = list(pool.map(check, files.paths))
    kept = [row for row, error in enumerate(errors) if error is None]
    if not kept:
        raise DataError(f"data: {files.paths[0]} and all other images of its split are corrupt")
    if corrupt := sorted(str(path) for path, error in zip(files.paths, errors, strict=True) if error):
        warnings.warn(f"data: {len(corrupt)} corrupt image(s) left out: {', '.join(corrupt)}", stacklevel=2)
    return files._replace(paths=[files.paths[row] for row in kept], labels=files.labels[kept])


def check(path: Path) -> DataError | None:
    """Decode a file at an eighth of its resolution; returns the error, or None if the file can be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:
        return corrupt_file(path, error)
    return None


def corrupt_file(path: Path | str, error: Exception) -> DataError:
    """The DataError for a file that Pillow cannot decode. Raises ``error`` itself if it is an error of the machine."""
    if machine_error_hint(error):
        raise error
    reason = one_line(error, 200)
    return DataError(f"data: {path} is corrupt ({reason}); use data.on_corrupt=skip to leave out such images")


def available_cores() -> int:
    """Cores that this process may use, shared with the other processes that torchrun started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
