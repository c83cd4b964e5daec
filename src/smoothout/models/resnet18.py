"""ResNet18 for ImageNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNet18:
    """[He 2016, Table 1] ImageNet's residual network of 18 layers, from torchvision.

    It is initialized as published: convolutions from N(0, 2 / (k k out)), BatchNorm from weight 1.
    Parameters for 1000 classes: 11,689,512.
    """

    initializes_batchnorm: ClassVar[bool] = True

    name: str = field(default="resnet18", metadata={"identity": False})

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Initialize a network for images of ``shape`` (3, height, width)."""
        from smoothout.common.torchvision_compat import import_torchvision  # noqa: PLC0415

        if shape[0] != 3:
            raise ValueError(f"model: ResNet18 takes images of 3 channels, not {shape[0]}")
        model: nn.Module = import_torchvision().models.resnet18(num_classes=classes)
        return model
