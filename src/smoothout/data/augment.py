"""Augmentation of images on the device: random draws for a whole epoch, applied batch by batch.

Its settings can be read without torch, which is imported at the first draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PAD = 4  # pixels on each side
DEGREES = 10.0  # the largest rotation
SHIFT = 0.2  # the largest translation along each axis, as a share of the image's size


class Augment(StrEnum):
    """Training-time augmentation: none, `CropFlip`, or `AffineFlip`."""

    none = "none"
    crop_flip = "crop_flip"
    affine_flip = "affine_flip"


class Augmentation(Protocol):
    """Augments the images of an epoch: `draws` for all images at the start, then `apply` for each batch."""

    @property
    def border(self) -> tuple[int, ...]:
        """Color of pixels outside an image, one number from 0 to 255 per channel."""

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Independent draws for images of ``shape``, (N, C, H, W): a tensor (numbers per image, N) of any dtype.

        Its shape and dtype are the same in every epoch.
        """

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment ``images``, uint8 (N, C, H, W), by the columns of ``draws``; returns a new tensor.

        All work is done on the images' device, without synchronization.
        """


@dataclass(frozen=True)
class CropFlip:
    """Pad by 4 pixels, crop to the original size at random, mirror with probability 1/2 (Hoffer et al. on CIFAR)."""

    border: tuple[int, ...]  # color of the padding, one number from 0 to 255 per channel

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform draws, int64 (3, N).

        Row 0 and 1: first row and first column of the crop in the padded image (0 to 8). Row 2: 1 if mirrored.
        """
        import torch  # noqa: PLC0415

        corners = torch.randint(2 * PAD + 1, (2, shape[0]), generator=generator)
        return torch.cat([corners, torch.randint(2, (1, shape[0]), generator=generator)])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop and mirror ``images`` by ``draws``, (3, N)."""
        import torch  # noqa: PLC0415

        count, channels, height, width = images.shape
        padded = images.new_empty(count, channels, height + 2 * PAD, width + 2 * PAD)
        for channel, value in enumerate(self.border):
            padded[:, channel] = value
        padded[:, :, PAD : PAD + height, PAD : PAD + width] = images
        # One gather does both: the column index runs backwards where an image is mirrored.
        image, down, right = (torch.arange(n, device=images.device) for n in (count, height, width))
        top, left, mirrored = draws.view(3, -1, 1)
        rows, columns = top + down, left + right + mirrored * (width - 1 - 2 * right)
        return padded[image.view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(3, 1)


@dataclass(frozen=True)
class AffineFlip:
    """[Keskar App. E.1] Rotate, translate, and mirror with probability 1/2; sampled from the nearest pixel.

    The rotation is uniform in +-10 degrees around the center, the translation along each axis uniform in +-0.2 of the
    size, rounded to whole pixels, as in torchvision's RandomAffine and RandomHorizontalFlip. (Torchvision's functions
    take a single angle for all images of a call.) The paper does not say what is filled in at the border.
    """

    border: tuple[int, ...]  # color of pixels from outside the image, one number from 0 to 255 per channel

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of rotation (degrees, clockwise), translation (pixels to the right, down) and 1 if mirrored.

        float64 (4, N).
        """
        import torch  # noqa: PLC0415

        examples, _, height, width = shape
        uniform = 2 * torch.rand(3, examples, generator=generator, dtype=torch.float64) - 1
        angle, right, down = uniform * torch.tensor([[DEGREES], [SHIFT * width], [SHIFT * height]])
        mirrored = torch.randint(2, (examples,), generator=generator)
        return torch.stack([angle, right.round(), down.round(), mirrored.double()])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Rotate, translate and mirror ``images`` by ``draws``, (4, N)."""
        import torch  # noqa: PLC0415

        count, _, height, width = images.shape
        angle, right, down, mirrored = draws.view(4, -1, 1, 1)
        radians = angle * (math.pi / 180)
        image, row, column = (torch.arange(n, device=images.device) for n in (count, height, width))

        # The source of each pixel of the result, relative to the center: mirrored back, moved back, rotated back.
        x = (column - (width - 1) / 2) * (1 - 2 * mirrored) - right
        y = row.view(-1, 1) - (height - 1) / 2 - down
        columns = (radians.cos() * x + radians.sin() * y + (width - 1) / 2).round().long()
        rows = (radians.cos() * y - radians.sin() * x + (height - 1) / 2).round().long()
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        moved = images[image.view(-1, 1, 1), :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)].movedim(3, 1)
        for channel, value in enumerate(self.border):
            moved[:, channel].masked_fill_(~inside, value)
        return moved
