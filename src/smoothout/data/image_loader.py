"""Splits of an image folder, decoded by the worker processes of a torch DataLoader ahead of use."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smoothout.common.errors import DataError
from smoothout.common.rng import derive_seed
from smoothout.data.crops import Crop, CropTransform
from smoothout.data.image_files import ImageFiles, corrupt_file
from smoothout.data.split import AugmentedExamples, Split, SplitBatches

if TYPE_CHECKING:
    from smoothout.data.image_folder import ImageFolder

MAX_EVAL_BATCH = 250  # images per evaluation batch: larger ones fill memory and are not faster
CHUNK = 16  # images that a worker decodes and sends at a time
LINUX = sys.platform == "linux"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} if LINUX else set()
Key = tuple[str, int | None]  # a file, and the seed of its crop (None: the center crop)


class CropReader(Dataset[Tensor | Exception]):
    """Decode image files; an index is a list of keys, so that the worker processes need no copy of the file list."""

    def __init__(self, transform: CropTransform) -> None:
        self._transform = transform

    def __getitem__(self, keys: list[Key]) -> Tensor | Exception:
        """uint8 crops (N, crop_size, crop_size, 3), or the error of the first file that cannot be read."""
        try:
            return torch.stack([self.read(*key) for key in keys])
        except (DataError, OSError, MemoryError) as error:
            return error  # if a worker raised it, it would lose its attributes, and its message would be a traceback

    def read(self, path: str, seed: int | None) -> Tensor:
        """One crop, uint8 (crop_size, crop_size, 3). Raises DataError."""
        try:
            with Image.open(path) as image:
                return torch.from_numpy(np.array(self._transform(image, seed)))
        except Exception as error:  # Pillow raises almost any exception on a corrupt file
            raise corrupt_file(path, error) from error


class KeySampler:
    """A sampler whose keys can be replaced while the workers of its DataLoader stay alive."""

    def __init__(self, chunk: int) -> None:
        self.keys: Iterator[Key] = iter(())
        self._chunk = chunk

    def __iter__(self) -> Iterator[list[Key]]:
        while chunk := list(islice(self.keys, self._chunk)):
            yield chunk


class ImageLoader:
    """Crops on a device, decoded ahead by ``workers`` processes (0: by this one) in the order of `schedule`.

    They are copied to a GPU from pinned memory, without waiting.
    """

    def __init__(self, transform: CropTransform, workers: int, device: torch.device) -> None:
        self._sampler, self._device = KeySampler(CHUNK if workers else 1), device
        self._loader: DataLoader[Any] = DataLoader(
            CropReader(transform),
            batch_size=None,  # the sampler makes the chunks
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=init_worker if workers and LINUX else None,
            multiprocessing_context="fork" if workers and LINUX else None,  # starts fast, and inherits the signal mask
            pin_memory=device.type == "cuda",
        )
        self._empty = torch.empty((0, transform.crop_size, transform.crop_size, 3), dtype=torch.uint8)
        self._chunks: Iterator[Tensor | Exception] = iter(())
        self._rest, self._upcoming = self._empty, torch.empty(0, dtype=torch.int64)

    def schedule(self, rows: Tensor, key: Callable[[int], Key]) -> None:
        """Start to decode ``rows``, which `gather` must then request in this order.

        ``key`` returns what to read for a row. It must not refer to this loader: in a reference cycle, the loader and
        its workers would live until the garbage collector runs.
        """
        self._sampler.keys = map(key, rows.tolist())
        # If workers start now, all their threads inherit this mask, which blocks the signals that end a process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if LINUX else set()
        try:
            self._chunks = iter(self._loader)
        finally:
            if LINUX:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._rest, self._upcoming = self._empty, rows

    def is_next(self, rows: Tensor) -> bool:
        """Whether ``rows`` are the next ones in the order of `schedule`."""
        return torch.equal(self._upcoming[: len(rows)], rows)

    def forget(self) -> None:
        """Drop the order of `schedule`."""
        self._upcoming = self._upcoming[:0]

    def gather(self, rows: Tensor) -> Tensor:
        """The next crops in the order of `schedule`, uint8 (N, 3, crop_size, crop_size). Raises DataError."""
        upcoming, self._upcoming = self._upcoming[len(rows) :], self._upcoming[:0]  # stays empty if interrupted
        parts, missing = [self._empty.to(self._device)], len(rows)
        while missing:
            chunk = self._rest if len(self._rest) else next(self._chunks)
            if isinstance(chunk, Exception):
                raise chunk
            part, self._rest = chunk[:missing], chunk[missing:]
            parts.append(part.to(self._device, non_blocking=True))
            missing -= len(part)
        self._upcoming = upcoming
        return torch.cat(parts).permute(0, 3, 1, 2)


def init_worker(_: int) -> None:
    """Make a worker process, whose signals are blocked, exit when its parent has died or sends it a signal.

    Schedulers and terminals signal all processes of a job, but the parent still needs its workers to finish the update
    before it saves a checkpoint.
    """
    gc.freeze()  # do not finalize inherited objects, such as other loaders: that would stop their workers
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait(SIGNALS, 1.0)
            if received and received.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class ImageFolderSplit(Split):
    """Images of one split, read and decoded on demand; otherwise like ``Split``."""

    resident: ClassVar[bool] = False

    def __init__(self, files: ImageFiles, data: ImageFolder, workers: int, device: torch.device) -> None:
        self.labels = files.labels.to(device)
        self._files, self._data, self._workers, self._device = files, data, workers, device
        self._normalize_by(data.mean, data.std, data.shape)
        self._loader = self.make_loader(Crop.none)

    def make_loader(self, crop: Crop) -> ImageLoader:
        """A loader with its own workers; they start when it is used."""
        data = self._data
        transform = CropTransform(crop, data.crop_size, data.resize_size, data.draft)
        return ImageLoader(transform, self._workers, self._device)

    def keys(self, seed: Callable[[int], int | None] = lambda row: None) -> Callable[[int], Key]:
        """A function that returns the file and the ``seed`` of a row."""
        paths = self._files.paths
        return lambda row: (str(paths[row]), seed(row))

    def gather(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The normalized center crops and the labels of ``rows``."""
        if isinstance(rows, slice):  # an evaluation, which continues with the rows that follow
            following = torch.arange(len(self))[rows.start :]
            rows = torch.arange(len(self))[rows]
        else:
            following = rows = rows.cpu()
        if not self._loader.is_next(rows):
            self._loader.schedule(following, self.keys())
        return self.normalize(self._loader.gather(rows)), self.labels_of(rows)

    def labels_of(self, rows: Tensor) -> Tensor:
        """The labels of ``rows``, a tensor on the host: indexing labels on the device with it would synchronize."""
        labels = self._files.labels[rows]
        if self._device.type == "cuda":
            labels = labels.pin_memory()  # otherwise the copy would wait for the device too
        return labels.to(self._device, non_blocking=True)

    def batches(self, size: int) -> SplitBatches:
        """All images in their fixed order, in batches of ``size`` or `MAX_EVAL_BATCH`, whichever is smaller."""
        return SplitBatches(self, min(size, MAX_EVAL_BATCH))

    def first(self, examples: int | None) -> ImageFolderSplit:
        """The first ``examples`` images (None: all)."""
        part = copy.copy(self)
        part._files = self._files.subset(slice(examples))
        part.labels, part._loader = self.labels[:examples], self.make_loader(Crop.none)
        return part

    def training_view(self, augmentation: Crop | None, seed: int) -> ImageFolderExamples:
        """The images as the training with ``seed`` sees them."""
        return ImageFolderExamples(self, augmentation or Crop.none, seed)


class ImageFolderExamples(AugmentedExamples):
    """The images of ``split`` as a training sees them: every epoch shows other crops."""

    _split: ImageFolderSplit

    def __init__(self, split: ImageFolderSplit, crop: Crop, seed: int) -> None:
        super().__init__(split, None, seed)
        self._loader, self._epoch = split.make_loader(crop), 0

    def set_epoch(self, epoch: int) -> None:
        """Show the crops of ``epoch``."""
        self._epoch = epoch
        self._loader.forget()  # the crops of another epoch

    def prefetch(self, order: Tensor, start: int) -> Tensor:
        """Start to decode the images of ``order`` from position ``start``; row numbers stay on the host."""
        seed_of_row = partial(derive_seed, self._seed, "augment", self._epoch)
        self._loader.schedule(order[start:], self._split.keys(seed_of_row))
        return order

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The normalized crops of this epoch and the labels of ``rows``."""
        if not self._loader.is_next(rows):
            self.prefetch(rows, 0)
        return self._split.normalize(self._loader.gather(rows)), self._split.labels_of(rows)
