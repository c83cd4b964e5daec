"""Small networks, images and trainings that the checks are made of, and how far two of their ends lie apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.data.split import Split
from smoothout.models.mlp import MLP
from smoothout.models.resnet import ResNet
from smoothout.models.shallow import Shallow
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

LR = 2.0**-7  # the same number in float32, where a graph keeps it, and in float64
SHAPE, CLASSES = (3, 16, 16), 10
PIXELS = 3 * 16 * 16
Make = Callable[[], nn.Module]


def images(examples: int, seed: int, device: torch.device, shape: tuple[int, int, int] = SHAPE) -> Split:
    """Images of noise whose classes differ in brightness, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    labels = torch.randint(0, CLASSES, (examples,), generator=generator)
    noise = torch.randint(0, 120, (examples, height, width, channels), generator=generator, dtype=torch.uint8)
    pixels = noise + (130 * labels // CLASSES).to(torch.uint8).view(-1, 1, 1, 1)
    return Split(pixels.to(device), labels.to(device), (0.5,) * channels, (0.5,) * channels)


def mlp(dropout: float = 0.0, width: int = 256) -> nn.Module:
    """A network without convolutions, whose products have the same bits each time."""
    torch.manual_seed(0)
    layers = [nn.Linear(PIXELS, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, CLASSES))


def dropping() -> nn.Module:
    """The same with dropout."""
    return mlp(0.5)


def smooth() -> nn.Module:
    """A network without kinks, so that rounding stays rounding: a ReLU that it flips moves an end a thousand times."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
    convolutions = [first, nn.BatchNorm2d(8), nn.Tanh(), second, nn.BatchNorm2d(16), nn.Tanh()]
    return nn.Sequential(*convolutions, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, CLASSES))


def resnet() -> nn.Module:
    """ResNet8."""
    torch.manual_seed(0)
    return ResNet(8).build(SHAPE, CLASSES)


def c1() -> nn.Module:
    """C1, for smaller images."""
    torch.manual_seed(0)
    return Shallow().build(SHAPE, CLASSES)


def f1(seed: int) -> nn.Module:
    """F1 as it is published."""
    torch.manual_seed(seed)
    return MLP().build((1, 28, 28), CLASSES)


def published_c1(seed: int) -> nn.Module:
    """C1 as it is published."""
    torch.manual_seed(seed)
    return Shallow().build((3, 32, 32), CLASSES)


def training(
    device: torch.device,
    launch: Launch = Launch.auto,
    *,
    examples: int = 1000,
    shape: tuple[int, int, int] = SHAPE,
    model: Make = mlp,
    ghosts: GhostPasses = GhostPasses.auto,
    **changes: Any,
) -> Trainer:
    """A short training: 16 updates an epoch, of which every other measures curvature where there is noise."""
    settings = {"optimizer": Adam(LR), "schedule": Schedule(2), "batch": Batch(64), "seed": 0, **changes}
    data = images(examples, 0, device, shape), images(100, 1, device, shape)
    return Trainer(model().to(device), *data, engine=Engine(launch, ghosts=ghosts), **settings)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], start: nn.Module) -> float:
    """How far two ends lie apart, as a share of the way from the ``start``.

    The largest of parameters', running averages' and counters' shares; nan where an end is no number or nothing moved.
    """
    buffers = dict(start.named_buffers())
    groups = (
        [name for name, _ in start.named_parameters()],
        [name for name, buffer in buffers.items() if buffer.is_floating_point()],
        [name for name, buffer in buffers.items() if not buffer.is_floating_point()],
    )
    begun = start.state_dict()
    shares = [_distance(one, other, names) / _distance(one, begun, names) for names in groups if names]
    return float(torch.stack(shares).max())


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """The Euclidean distance of the tensors of those ``names``, taken together."""
    squares = [(one[name].double().cpu() - other[name].double().cpu()).square().sum() for name in names]
    return torch.stack(squares).sum().sqrt()


def told(share: float) -> str:
    """`apart` in words."""
    return "the same bits" if share == 0 else f"apart by {share:.1e} of the way"


@contextmanager
def repeatable() -> Iterator[None]:
    """Within the block kernels are those that give the same bits each time; warnings of those without stay away."""
    before = torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.cudnn.deterministic = before[0]
        torch.use_deterministic_algorithms(before[1])
