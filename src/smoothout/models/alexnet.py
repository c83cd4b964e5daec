"""AlexNet in one tower with BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AlexNet:
    """[Krizhevsky 2014] AlexNet in one tower, with BatchNorm, as SmoothOut's released program builds it for ImageNet.

    Five convolutions with 64, 192, 384, 256 and 256 channels, without bias. BatchNorm comes before ReLU in the first
    layer and after it in the others; MaxPool 3/2 follows the first, second and fifth convolution. Then two fully
    connected layers of 4096 with BatchNorm, ReLU and dropout, without bias, and an output layer with bias.
    For 1000 classes it has 61,110,184 parameters.
    """

    initializes_batchnorm: ClassVar[bool] = False

    dropout: float = 0.5  # 0 in the published runs with AdaSmoothOut
    name: str = field(default="alexnet", metadata={"identity": False})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must lie in [0, 1), not {self.dropout}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width), at least 63 x 63."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import alexnet_convolution, dense  # noqa: PLC0415

        channels, height, width = shape
        if min(height, width) < 63:
            raise ValueError(f"model: the convolutions need images of at least 63x63 pixels, not {height}x{width}")
        side = [_halved(_halved(_halved((n + 4 - 11) // 4 + 1))) for n in (height, width)]
        first = nn.Conv2d(channels, 64, 11, stride=4, padding=2, bias=False)
        return nn.Sequential(
            *[first, nn.MaxPool2d(3, 2), nn.BatchNorm2d(64), nn.ReLU()],
            *alexnet_convolution(64, 192, 5, pool=True),
            *alexnet_convolution(192, 384, 3),
            *alexnet_convolution(384, 256, 3),
            *alexnet_convolution(256, 256, 3, pool=True),
            nn.Flatten(),
            *dense(256 * side[0] * side[1], 4096, self.dropout),
            *dense(4096, 4096, self.dropout),
            nn.Linear(4096, classes),
        )


def _halved(n: int) -> int:
    """The side length after MaxPool 3/2."""
    return (n - 3) // 2 + 1
