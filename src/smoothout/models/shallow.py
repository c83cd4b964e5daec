"""The shallow convolutional networks C1 and C3 of Keskar et al."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Shallow:
    """[Keskar App. B.3] C1 (CIFAR-10) and C3 (CIFAR-100), as SmoothOut's released program builds them.

    Two convolutions 5x5 with 64 filters at stride 1, each followed by pooling, BatchNorm and ReLU in this order, then
    fully connected layers of 384 and 192 with BatchNorm, ReLU and dropout. Keskar et al. write stride 2, but the
    program behind the published numbers has stride 1. Parameters: C1 1,388,490; C3 1,405,860.
    """

    initializes_batchnorm: ClassVar[bool] = False

    dropout: float = 0.5
    name: str = field(default="shallow", metadata={"identity": False})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must lie in [0, 1), not {self.dropout}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """A freshly initialised network for images of ``shape`` (channels, height, width), at least 11 x 11."""
        channels, height, width = shape
        if min(height, width) < 11:
            raise ValueError(f"model: the convolutions need images of at least 11x11 pixels, not {height}x{width}")
        side = [((n - 1) // 2 - 1) // 2 for n in (height, width)]
        return nn.Sequential(
            *_convolution(channels),
            *_convolution(64),
            nn.Flatten(),
            *_dense(64 * side[0] * side[1], 384, self.dropout),
            *_dense(384, 192, self.dropout),
            nn.Linear(192, classes),
        )


def _convolution(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, 64, kernel_size=5, padding=2, bias=False)
    return [convolution, nn.MaxPool2d(kernel_size=3, stride=2), nn.BatchNorm2d(64), nn.ReLU()]


def _dense(features: int, width: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
