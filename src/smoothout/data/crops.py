"""Which piece of a photograph a network sees: a box in the photograph's own pixels, drawn as torchvision draws it.

torchvision's transforms take their chance from torch's global generator, which threads would share. Here every
photograph has a generator of its own; with the same state, the boxes are torchvision's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch

from smoothout.common.enums import coerce_enum_fields

SHARE = (0.08, 1.0)  # of a photograph's area that a resized crop covers
RATIO = (3 / 4, 4 / 3)  # of its width to its height
ATTEMPTS = 10  # to draw one that fits


class Crop(StrEnum):
    """What a training does to photographs: nothing (the centre), or one of two crops, mirrored with chance 1/2.

    crop_flip: a square of the resized photograph (AlexNet). resized_crop_flip: a piece of random area and shape, made
    a square (ResNet18; torchvision's RandomResizedCrop).
    """

    none = "none"
    crop_flip = "crop_flip"
    resized_crop_flip = "resized_crop_flip"


class CropBox(NamedTuple):
    """A box in a photograph, in pixels from its upper left corner, and whether it is mirrored."""

    left: float
    upper: float
    right: float
    lower: float
    mirrored: bool = False


@dataclass(frozen=True)
class CropTransform:
    """How a photograph becomes a square of ``side`` pixels; ``short`` is its shorter side where it is resized before.

    Args:
        crop: the way of a training.
        side: pixels of the square.
        short: pixels of the resized photograph's shorter side, at least ``side``.
    """

    crop: Crop
    side: int
    short: int

    def __post_init__(self) -> None:
        coerce_enum_fields(self)

    def sample_box(self, width: int, height: int, generator: torch.Generator | None) -> CropBox:
        """The piece of a photograph of ``width`` x ``height``; without a ``generator`` it is the centre."""
        if generator is None or self.crop is Crop.none:
            return self._square(width, height)
        cut = self._square if self.crop is Crop.crop_flip else _resized
        return cut(width, height, generator)._replace(mirrored=bool(torch.rand(1, generator=generator) < 0.5))

    def _square(self, width: int, height: int, generator: torch.Generator | None = None) -> CropBox:
        """A square of the resized photograph: at random, or its centre."""
        long = int(self.short * max(width, height) / min(width, height))  # torchvision rounds down
        across, down = (self.short, long) if width <= height else (long, self.short)
        rooms = down - self.side, across - self.side
        if generator is None:
            top, left = (round(room / 2) for room in rooms)
        else:
            top, left = (_below(room + 1, generator) for room in rooms)
        x, y = width / across, height / down
        right, lower = min((left + self.side) * x, width), min((top + self.side) * y, height)
        return CropBox(left * x, top * y, right, lower)


def _resized(width: int, height: int, generator: torch.Generator) -> CropBox:
    """A piece of random area and shape; after ten attempts that do not fit, the largest centre of a fitting shape."""
    low, high = torch.log(torch.tensor(RATIO)).tolist()
    for _ in range(ATTEMPTS):
        area = width * height * torch.empty(1).uniform_(*SHARE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = _below(height - h + 1, generator), _below(width - w + 1, generator)
            return CropBox(left, top, left + w, top + h)
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    left, top = (width - w) // 2, (height - h) // 2
    return CropBox(left, top, left + w, top + h)


def _below(number: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, number, (1,), generator=generator))
