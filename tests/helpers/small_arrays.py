"""A small data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smoothout.common.errors import DataError
from smoothout.data.datasets import DatasetName
from smoothout.data.image_arrays import ImageArrays

CPU = torch.device("cpu")


def small(seed: int = 0, classes: int = 10, **changes: Any) -> dict[str, NDArray[Any]]:
    """Arrays of the shape of digits: 12 training and 5 test images."""
    generator = np.random.default_rng(seed)
    made = {
        "x_train": generator.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        "y_train": generator.integers(0, classes, 12),
        "x_test": generator.integers(0, 256, (5, 8, 8), dtype=np.uint8),
        "y_test": generator.integers(0, classes, 5),
    }
    return {**made, **changes}


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def images(name: str = "digits", **changes: Any) -> ImageArrays:
    channels = 3 if name.startswith("cifar") else 1
    return ImageArrays(**{"name": DatasetName(name), "mean": (0.5,) * channels, "std": (0.5,) * channels, **changes})
