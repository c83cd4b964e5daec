"""Augmentation of images on the device: random draws for a whole epoch, applied batch by batch.

Its settings can be read without torch, which is imported when something is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PAD = 4  # pixels on each side


class Augment(StrEnum):
    """Training-time augmentation: none, or `CropFlip`."""

    none = "none"
    crop_flip = "crop_flip"


@dataclass(frozen=True)
class CropFlip:
    """Pad by 4 pixels, crop to the original size at random, mirror with probability 1/2 (Hoffer et al. on CIFAR)."""

    border: tuple[int, ...]  # color of the padding, one number from 0 to 255 per channel

    def draws(self, examples: int, generator: torch.Generator) -> Tensor:
        """Independent, uniform draws for ``examples`` images, int64 (3, examples).

        Row 0 and 1: first row and first column of the crop in the padded image (0 to 8). Row 2: 1 if mirrored.
        """
        import torch  # noqa: PLC0415

        corners = torch.randint(2 * PAD + 1, (2, examples), generator=generator)
        return torch.cat([corners, torch.randint(2, (1, examples), generator=generator)])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment ``images``, uint8 (N, C, H, W), by the columns of ``draws``, (3, N); returns a new tensor.

        All work is done on the images' device, without synchronization.
        """
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
