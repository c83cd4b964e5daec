"""C1 and C3 as in SmoothOut's program; those of Keskar et al. are in `models.keskar`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Shallow:
    """[SmoothOut v1 Table 1, C1] C1 (CIFAR-10) and C3 (CIFAR-100), as SmoothOut's released program builds them.

    Two 5x5 convolutions with 64 filters and stride 1, each followed by pooling, BatchNorm and ReLU in this order, then
    fully connected layers of 384 and 192 with BatchNorm, ReLU and dropout. Keskar et al. state stride 2; the program
    behind the published numbers uses stride 1. Parameters: C1 1,388,490; C3 1,405,860.
    """

    initializes_batchnorm: ClassVar[bool] = False

    dropout: float = 0.5
    name: str = field(default="shallow", metadata={"identity": False})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must lie in [0, 1), not {self.dropout}")

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width), at least 11 x 11."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import dense, shallow_convolution  # noqa: PLC0415

        channels, height, width = shape
        if min(height, width) < 11:
            raise ValueError(f"model: the convolutions need images of at least 11x11 pixels, not {height}x{width}")
        side = [((n - 1) // 2 - 1) // 2 for n in (height, width)]
        return nn.Sequential(
            *shallow_convolution(channels),
            *shallow_convolution(64),
            nn.Flatten(),
            *dense(64 * side[0] * side[1], 384, self.dropout),
            *dense(384, 192, self.dropout),
            nn.Linear(192, classes),
        )
