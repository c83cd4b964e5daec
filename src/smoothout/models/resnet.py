"""Residual networks for CIFAR."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class ResNet:
    """[He 2016, Sec. 4.2] CIFAR's residual network of depth 6n + 2, as SmoothOut's released program builds it.

    Three stages of n basic blocks with 16, 32 and 64 channels. If the shape changes, the shortcut is a 1x1 convolution
    with BatchNorm (He et al. use a shortcut without parameters). Convolutions start from N(0, 2 / (k k out)),
    BatchNorm from weight 1. Parameters of ResNet44: 661,338 for 10 classes, 667,188 for 100.
    """

    initializes_batchnorm: ClassVar[bool] = True

    depth: int = 44
    name: str = field(default="resnet", metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: must be 6n + 2, at least 8 (8, 14, 20, 32, 44, 56, 110, ...), not {self.depth}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width)."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import BasicBlock, he_convolution  # noqa: PLC0415

        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(he_convolution(shape[0], WIDTHS[0], 3, 1), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        )
        channels = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage and not index else 1
                layers[f"stage{stage + 1}_{index}"] = BasicBlock(channels, width, stride)
                channels = width
        layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(channels, classes))
        return nn.Sequential(layers)
