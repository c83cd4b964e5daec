"""Fully connected networks with BatchNorm: F1 and F2 of Keskar et al. and smaller or larger ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MLP:
    """[Keskar App. B.1] F1: ``depth`` blocks Linear (with bias), BatchNorm, ReLU of ``width``, then Linear.

    F1 on MNIST has width 512, depth 5 and 1,462,794 parameters; F2 (App. B.2) on 360 features of TIMIT has depth 7,
    1,973 classes and 2,780,085 parameters.
    """

    initializes_batchnorm: ClassVar[bool] = False

    width: int = 512
    depth: int = 5
    name: str = field(default="mlp", metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width, depth: must be at least 1, not {self.width}, {self.depth}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width)."""
        from torch import nn  # noqa: PLC0415

        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(shape)
        for _ in range(self.depth):
            layers += [nn.Linear(features, self.width), nn.BatchNorm1d(self.width), nn.ReLU()]
            features = self.width
        return nn.Sequential(*layers, nn.Linear(features, classes))
