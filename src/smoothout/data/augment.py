"""Augmentation: drawn for many images at once, and applied to a batch of them on their device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

PAD = 4  # pixels on each side


class Augment(StrEnum):
    """What a training does to its images: nothing, or `CropFlip`."""

    none = "none"
    crop_flip = "crop_flip"


@dataclass(frozen=True)
class CropFlip:
    """Pad by 4 pixels, cut a piece of the old size out at random, mirror it with chance 1/2 (Hoffer et al. on CIFAR).

    Args:
        border: colour of the padding: a number from 0 to 255 for each channel.
    """

    border: tuple[int, ...]

    def draws(self, examples: int, generator: torch.Generator) -> Tensor:
        """What happens to each of ``examples`` images, independent and uniform, shape (3, examples), int64.

        The piece's first row and its first column in the padded image (0 to 8), and 1 where it is mirrored.
        """
        corners = torch.randint(2 * PAD + 1, (2, examples), generator=generator)
        return torch.cat([corners, torch.randint(2, (1, examples), generator=generator)])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """New images, each changed by its column of ``draws``: (N, C, H, W) and (3, N) to (N, C, H, W), uint8.

        All work is done on the images' device, and waits for nothing.
        """
        count, channels, height, width = images.shape
        padded = images.new_empty(count, channels, height + 2 * PAD, width + 2 * PAD)
        for channel, value in enumerate(self.border):
            padded[:, channel] = value
        padded[:, :, PAD : PAD + height, PAD : PAD + width] = images
        image, down, right = (torch.arange(n, device=images.device) for n in (count, height, width))
        top, left, mirrored = draws.view(3, -1, 1)
        rows, columns = top + down, left + right + mirrored * (width - 1 - 2 * right)
        return padded[image.view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(3, 1)
