"""A small image folder: JPEGs of smooth colors, whose classes differ in brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, width: int, height: int) -> np.ndarray:
    """A smooth picture, (height, width, 3): coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def tree(folder: Path, per_class: dict[str, int], classes: int = 10, size: tuple[int, int] = (40, 32)) -> Path:
    """<folder>/{train,val}/n<class>/*.JPEG, this many per class; every third in portrait format. Returns ``folder``."""
    seed = 0
    for split, count in per_class.items():
        for label in range(classes):
            place = folder / split / f"n{label:03d}"
            place.mkdir(parents=True)
            for index in range(count):
                width, height = size[::-1] if index % 3 == 2 else size
                picture = pixels(seed, width, height) // 2 + np.uint8(12 * label)
                Image.fromarray(picture).save(place / f"{split}_{index:03d}.JPEG", quality=90)
                seed += 1
    return folder
