"""Read MNIST-like data sets from the four gzipped IDX files in which they are published."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoothout.common.errors import DataError, one_line
from smoothout.common.machine_errors import machine_error_hint

NAMES = tuple(f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def read_idx_folder(folder: Path) -> list[NDArray[Any]]:
    """Training images, training labels, test images and test labels of ``folder``. Raises DataError."""
    return [read_idx(folder / name) for name in NAMES]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of a gzipped IDX file, in the shape given by its header. Raises DataError if they do not fit it."""
    try:
        return _parse(gzip.decompress(path.read_bytes()))
    except Exception as error:
        if machine_error_hint(error):
            raise
        raise DataError(f"data: {path} is missing or not a gzipped IDX file ({one_line(error, 200)})") from error


def _parse(content: bytes) -> NDArray[np.uint8]:
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions, then the size of each.
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if (zeros, kind) != (0, 8):
        raise ValueError(f"begins with {content[:4].hex()}, not with 000008")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
