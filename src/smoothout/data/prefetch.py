"""Photographs from files to the device: decoded by threads, ahead of their use, into a ring of pinned memory.

Pillow gives Python's lock back while it decodes and resizes, so threads do, share the ring, and need no copies between
processes; measured, two threads read as fast as two processes. torchvision's decode_jpeg needs a torchvision built for
this very torch, which cannot be counted on; nvJPEG resizes otherwise than the pipeline behind the published numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from smoothout.common.errors import DataError
from smoothout.common.machine_errors import machine_error_hint
from smoothout.data.crops import CropBox
from smoothout.data.transfer import Transfer

Pixels = NDArray[np.uint8]
Decode = Callable[[int, Pixels], None]  # a row's photograph into an array (side, side, 3)


def decode(path: Path, cut: Callable[[int, int], CropBox], out: Pixels, *, draft: bool = False) -> None:
    """A photograph's piece, resized with antialiasing to the square ``out``, (side, side, 3).

    Only the piece is resized. Within rounding it is torchvision's resize and crop; a resized crop's outermost pixels
    also see what lies beside the piece.

    Args:
        path: of a file in any format that Pillow reads; grey and CMYK become RGB.
        cut: gives the piece for the photograph's width and height.
        out: where it goes.
        draft: let libjpeg leave out resolution, by 2, 4 or 8, where twice what the piece needs is left.

    Raises:
        DataError: when the file is missing or damaged.
    """
    side = len(out)
    try:
        with Image.open(path) as image:
            left, upper, right, lower, mirrored = piece = cut(*image.size)
            scale = _drafted(image, piece, side) if draft else 1.0
            whole = image if image.mode == "RGB" else image.convert("RGB")
            box = (left * scale, upper * scale, min(right * scale, whole.width), min(lower * scale, whole.height))
            square = whole.resize((side, side), Image.Resampling.BILINEAR, box=box)
            if mirrored:  # here, and not in the array: it takes a tenth of the time
                square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.asarray(square)
    except Exception as error:  # Pillow raises almost anything on what is no sound image
        if machine_error_hint(error):
            raise
        raise damaged(path, error) from error
    out[...] = pixels


def _drafted(image: Image.Image, piece: CropBox, side: int) -> float:
    """Let ``image`` be decoded at the lowest resolution that gives ``sample_box`` twice its ``side``: 1, 1/2, 1/4 or
    1/8.

    Not once, for what follows must antialias: with twice, a network trained without drafts gave 1 answer in 100
    otherwise, and 1 in 20 with once (imagenette at 32 pixels).
    """
    width, height = image.size
    wanted = int(2 * width * side / (piece.right - piece.left)), int(2 * height * side / (piece.lower - piece.upper))
    drafted = image.draft("RGB", wanted)
    return drafted[1][2] / width if drafted else 1.0


def check(path: Path) -> DataError | None:
    """What is wrong with a file, found at an eighth of its resolution; None for a sound one."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:
        if machine_error_hint(error):
            raise
        return damaged(path, error)
    return None


def damaged(path: Path, error: Exception) -> DataError:
    """The line that names a damaged file."""
    reason = " ".join(str(error).split())[:200]
    return DataError(f"data: {path} is damaged ({reason}); data.on_corrupt=skip leaves such photographs out")


def available_cores() -> int:
    """Cores for this process: those that it may use, shared with its neighbours of one torchrun."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class PrefetchReader:
    """Squares of photographs on a device, in an order that is known before they are asked for.

    The ring holds twice as many as are taken at once: while these are in use, threads decode the next ones. A CUDA
    device copies out of the ring beside the update before; a thread that writes to a place of the ring waits until the
    device has read it, and nobody else does.

    Args:
        side: pixels of a square.
        workers: threads; 0 decodes when asked.
        device: where squares are taken to.
    """

    def __init__(self, side: int, workers: int, device: torch.device) -> None:
        self._side, self._transfer = side, Transfer(device)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="photographs") if workers else None
        self._ring = self._room(0)
        self._rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self._decode: Decode = lambda row, out: None
        self._at, self._pending = 0, list[Future[None]]()

    def schedule(self, rows: Tensor, decode: Decode) -> None:
        """From now on ``rows`` are taken in this order, each as ``decode`` makes it; their reading begins."""
        self._forget()
        self._rows, self._decode, self._at = rows.numpy(), decode, 0
        self._read_on()

    def gather(self, rows: Tensor) -> Tensor:
        """uint8, (N, 3, side, side), channels last; fast where ``rows`` are those that come next. Raises DataError."""
        wanted, count = rows.numpy(), len(rows)
        if not np.array_equal(self._rows[self._at : self._at + count], wanted):
            self._look_for(wanted)
        if 2 * count > len(self._ring):
            self._forget()
            self._ring = self._room(2 * count)
        self._read_on()
        for ready in self._pending[:count]:
            ready.result()
        if self._pool is None:
            for position in range(self._at, self._at + count):
                self._one(position, self._transfer.read())
        squares = self._transfer.begin(*self._places(count))
        del self._pending[:count]
        self._at += count
        self._read_on()
        return squares.permute(0, 3, 1, 2)

    def _look_for(self, wanted: NDArray[np.int64]) -> None:
        """Go on where ``wanted`` stands in the order that is known; it becomes the order where it does not."""
        self._forget()
        [*places] = np.flatnonzero(self._rows == wanted[0])[:1]
        self._at = int(places[0]) if places else 0
        if not np.array_equal(self._rows[self._at : self._at + len(wanted)], wanted):
            self._rows, self._at = wanted, 0

    def _read_on(self) -> None:
        """Keep the threads busy as far as the ring reaches."""
        if self._pool is not None:
            last = min(self._at + len(self._ring), len(self._rows))
            read, following = self._transfer.read(), range(self._at + len(self._pending), last)
            self._pending += [self._pool.submit(self._one, position, read) for position in following]

    def _one(self, position: int, read: Callable[[], None]) -> None:
        """Decode into the ring, once ``read`` has returned: the device may still be copying from that place."""
        read()
        self._decode(int(self._rows[position]), self._ring[position % len(self._ring)].numpy())

    def _forget(self) -> None:
        """Stop reading ahead; nothing writes into the ring afterwards."""
        for future in self._pending:
            future.cancel()
        for future in self._pending:
            if not future.cancelled():
                future.exception()
        self._pending.clear()

    def _places(self, count: int) -> tuple[Tensor, Tensor]:
        """The next ``count`` squares of the ring, in two parts where they go past its end."""
        start = self._at % max(1, len(self._ring))
        first = min(count, len(self._ring) - start)
        return self._ring[start : start + first], self._ring[: count - first]

    def _room(self, squares: int) -> Tensor:
        return self._transfer.room(squares, self._side, self._side, 3)


def checked(paths: Sequence[Path], workers: int) -> list[DataError | None]:
    """What is wrong with each file, read by so many threads."""
    if not workers:
        return [check(path) for path in paths]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(check, paths))
