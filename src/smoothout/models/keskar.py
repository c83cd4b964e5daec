"""The convolutional networks of Keskar et al. as their Appendix B describes them: C1 and C3, C2 and C4.

SmoothOut's own C1 and C3 are in `models.shallow`: another stride, another order of layers. The text leaves open where
BatchNorm and ReLU stand, and the stride and padding of pooling; this follows the program that the authors released
(github.com/keskarnitish/large-batch-training).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class KeskarNetwork:
    """Base of both networks: convolutions and dense layers without bias, each with BatchNorm and ReLU."""

    initializes_batchnorm: ClassVar[bool] = False

    dropout: float = 0.5  # of the dense layers
    name: str = field(default="keskar", metadata={"identity": False})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must lie in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class KeskarShallow(KeskarNetwork):
    """[Keskar App. B.3] C1 (CIFAR-10) and C3 (CIFAR-100).

    Two 5x5 convolutions with 64 filters and ``stride`` 2, each followed by BatchNorm, ReLU and MaxPool 3/2, then dense
    layers of 384 and 192 with BatchNorm, ReLU and dropout. The released program has stride 1, which leaves 16 times as
    many features. Parameters of C1 and C3: 282,570 and 299,940 with stride 2, 1,757,130 and 1,774,500 with stride 1.
    """

    stride: int = 2  # of the convolutions

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride not in (1, 2):
            raise ValueError(f"stride: must be 2 (the paper) or 1 (its authors' released program), not {self.stride}")

    def build(self, shape: Shape, classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width)."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import convolution, dense  # noqa: PLC0415

        channels, *sides = shape
        for _ in range(2):  # two stages of a convolution and a pooling; both round up
            sides = [-(-n // self.stride) for n in sides]
            sides = [-(-n // 2) for n in sides]
        return nn.Sequential(
            *convolution(channels, 64, 5, self.stride),
            nn.MaxPool2d(3, stride=2, padding=1),
            *convolution(64, 64, 5, self.stride),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            *dense(64 * sides[0] * sides[1], 384, self.dropout),
            *dense(384, 192, self.dropout),
            nn.Linear(192, classes),
        )


STACKS = (2, 64), (2, 128), (3, 256), (3, 512), (3, 512)  # convolutions and their filters


@dataclass(frozen=True)
class KeskarDeep(KeskarNetwork):
    """[Keskar App. B.4] C2 (CIFAR-10) and C4 (CIFAR-100), modified from VGG.

    Five stacks of 2, 2, 3, 3 and 3 convolutions, 3x3, with 64, 128, 256, 512 and 512 filters, each with BatchNorm and
    ReLU; MaxPool 2/2 follows each stack, then a dense layer of 512 with BatchNorm, ReLU and dropout. The released
    program has dropout between the convolutions, too, which the text does not mention. Parameters: C2 14,987,210;
    C4 15,033,380.
    """

    def build(self, shape: Shape, classes: int) -> nn.Sequential:
        """Initialize a network for images of ``shape`` (channels, height, width), at least 32 x 32."""
        from torch import nn  # noqa: PLC0415

        from smoothout.models.blocks import dense, pooled_stacks  # noqa: PLC0415

        layers, features = pooled_stacks(shape, STACKS)
        return nn.Sequential(*layers, *dense(features, 512, self.dropout), nn.Linear(512, classes))
