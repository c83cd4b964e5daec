"""Building blocks of the networks, separate from their settings, which must be importable without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; maps (N, channels, H, W) to (N, width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            he_convolution(channels, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            he_convolution(width, width, 3, 1),
            nn.BatchNorm2d(width),
        )
        same_shape = channels == width and stride == 1
        projection = [] if same_shape else [he_convolution(channels, width, 1, stride), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*projection)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


def he_convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    """A padded convolution without bias, its weights drawn from N(0, 2 / (kernel * kernel * width))."""
    layer = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (kernel * kernel * width)))
    return layer


def alexnet_convolution(channels: int, width: int, kernel: int, pool: bool = False) -> list[nn.Module]:
    """Convolution, MaxPool 3/2 (if ``pool``), ReLU, BatchNorm."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [convolution, *([nn.MaxPool2d(3, 2)] if pool else []), nn.ReLU(), nn.BatchNorm2d(width)]


def shallow_convolution(channels: int) -> list[nn.Module]:
    """5x5 convolution with 64 filters, MaxPool 3/2, BatchNorm, ReLU."""
    convolution = nn.Conv2d(channels, 64, kernel_size=5, padding=2, bias=False)
    return [convolution, nn.MaxPool2d(kernel_size=3, stride=2), nn.BatchNorm2d(64), nn.ReLU()]


def convolution(channels: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Padded convolution without bias, BatchNorm, ReLU; maps (H, W) to (H / stride, W / stride), rounded up."""
    layer = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


def pooled_stacks(shape: tuple[int, int, int], stacks: Sequence[tuple[int, int]]) -> tuple[list[nn.Module], int]:
    """Layers of VGG: stacks of 3x3 `convolution`, each followed by MaxPool 2/2, then Flatten; and the output's size.

    ``stacks`` hold the number of convolutions and their filters for each stack. Raises ValueError if an image of
    ``shape`` (channels, height, width) is too small to be halved that often.
    """
    (channels, height, width), least = shape, 2 ** len(stacks)
    if min(height, width) < least:
        raise ValueError(
            f"model: {len(stacks)} poolings need images of at least {least}x{least} pixels, not {height}x{width}"
        )
    layers: list[nn.Module] = []
    for count, filters in stacks:
        for _ in range(count):
            layers += convolution(channels, filters, 3)
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return [*layers, nn.Flatten()], channels * (height // least) * (width // least)


def dense(features: int, width: int, dropout: float) -> list[nn.Module]:
    """Linear without bias, BatchNorm, ReLU, dropout."""
    return [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
