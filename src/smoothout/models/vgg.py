"""VGG-11 for CIFAR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

STACKS = (1, 64), (1, 128), (2, 256), (2, 512), (2, 512)  # convolutions and their filters


@dataclass(frozen=True)
class VGG11:
    """[Simonyan 2015, Table 1] VGG-11 (configuration A) with BatchNorm, as is usual for CIFAR.

    Five stacks of 1, 1, 2, 2 and 2 convolutions, 3x3 without bias, with 64, 128, 256, 512 and 512 filters, each with
    BatchNorm and ReLU; MaxPool 2/2 follows each stack. One linear layer replaces the three of ImageNet. Parameters for
    10 classes: 9,228,362.
    """

    initializes_batchnorm: ClassVar[bool] = False

    name: str = field(default="vgg11", metadata={"identity": False})

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width), at least 32 x 32."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import pooled_stacks  # noqa: PLC0415

        layers, features = pooled_stacks(shape, STACKS)
        return nn.Sequential(*layers, nn.Linear(features, classes))
