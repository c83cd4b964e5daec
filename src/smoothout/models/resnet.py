"""Residual networks for CIFAR."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class ResNet:
    """[He 2016, Sec. 4.2] CIFAR's residual network of depth 6n + 2, as SmoothOut's released program builds it.

    Three stages of n basic blocks with 16, 32 and 64 channels; where the shape changes, the shortcut is a convolution
    1x1 with BatchNorm (He et al. take a shortcut without parameters). Convolutions start from N(0, 2 / (k k out)),
    BatchNorm from weight 1. Parameters of ResNet44: 661,338 for 10 classes, 667,188 for 100.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110, ...
    """

    initializes_batchnorm: ClassVar[bool] = True

    depth: int = 44
    name: str = field(default="resnet", metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: must be 6n + 2, at least 8 (8, 14, 20, 32, 44, 56, 110, ...), not {self.depth}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """A freshly initialised network for images of ``shape`` (channels, height, width)."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(_convolution(shape[0], WIDTHS[0], 3, 1), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        )
        before = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage and not index else 1
                layers[f"stage{stage + 1}_{index}"] = BasicBlock(before, width, stride)
                before = width
        layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(before, classes))
        return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two convolutions 3x3 beside a shortcut; (N, before, H, W) becomes (N, width, H / stride, W / stride)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(before, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, width, 3, 1),
            nn.BatchNorm2d(width),
        )
        same = before == width and stride == 1
        shortcut = [] if same else [_convolution(before, width, 1, stride), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


def _convolution(before: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (kernel * kernel * width)))
    return layer
