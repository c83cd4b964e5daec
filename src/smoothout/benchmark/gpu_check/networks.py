"""Small networks and trainings that the checks use, and how far apart two trainings end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.benchmark.workloads import C1, RESNET44, random_split
from smoothout.models.resnet import ResNet
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

LR = 2.0**-7  # the same number in float32, in which a graph keeps it, and in float64
SMOOTHOUT = NoiseConfig(0.05)
SHAPE, CLASSES = (3, 16, 16), 10
PIXELS = 3 * 16 * 16

c1: Callable[[], nn.Module] = C1._replace(shape=SHAPE).network
resnet8: Callable[[], nn.Module] = RESNET44._replace(model=ResNet(8), shape=SHAPE).network


def mlp(dropout: float = 0.0, width: int = 256) -> nn.Module:
    """A network without convolutions, whose products have the same bits each time."""
    torch.manual_seed(0)
    layers = [nn.Linear(PIXELS, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, CLASSES))


with_dropout = partial(mlp, 0.5)
small_mlp = partial(mlp, width=64)  # so small that a draw of its noise is the same on GPUs of two models


def smooth() -> nn.Module:
    """A network without kinks: where rounding flips a ReLU, trainings end a thousand times farther apart."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
    convolutions = [first, nn.BatchNorm2d(8), nn.Tanh(), second, nn.BatchNorm2d(16), nn.Tanh()]
    return nn.Sequential(*convolutions, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, CLASSES))


def training(
    device: torch.device,
    launch: Launch = Launch.auto,
    *,
    examples: int = 1000,
    shape: tuple[int, int, int] = SHAPE,
    model: Callable[[], nn.Module] = mlp,
    ghosts: GhostPasses = GhostPasses.auto,
    **changes: Any,
) -> Trainer:
    """A short training: 16 updates per epoch, of which every other one measures curvature if there is noise.

    ``changes`` are the trainer's settings: without them Adam and SmoothOut.
    """
    settings: dict[str, Any] = {"optimizer": Adam(LR), "method": SMOOTHOUT, "schedule": Schedule(2), "batch": Batch(64)}
    settings |= {"seed": 0, **changes}
    splits = (random_split(shape, CLASSES, size, device, seed) for seed, size in enumerate((examples, 100)))
    return Trainer(model().to(device), *splits, engine=Engine(launch, ghosts=ghosts), **settings)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor], start: nn.Module) -> float:
    """How far apart two trainings ended, as a share of the way from the ``start``.

    The largest of the shares of parameters, running statistics and counters; nan if an end is nan or nothing moved.
    """
    buffers = dict(start.named_buffers())
    groups = (
        [name for name, _ in start.named_parameters()],
        [name for name, buffer in buffers.items() if buffer.is_floating_point()],
        [name for name, buffer in buffers.items() if not buffer.is_floating_point()],
    )
    before = start.state_dict()
    shares = [_euclidean(one, other, names) / _euclidean(one, before, names) for names in groups if names]
    return float(torch.stack(shares).max())


def _euclidean(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """The Euclidean distance of the tensors of those ``names``, taken together."""
    squares = [(one[name].double().cpu() - other[name].double().cpu()).square().sum() for name in names]
    return torch.stack(squares).sum().sqrt()


def in_words(share: float) -> str:
    """A `distance` in words."""
    return "the same bits" if share == 0 else f"apart by {share:.1e} of the way"


@contextmanager
def deterministic() -> Iterator[None]:
    """Within the block torch uses kernels that give the same bits each time, without warnings if there is none."""
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
