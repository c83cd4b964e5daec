"""What is timed and checked: the papers' networks, random images, and trainings of one on the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from smoothout.benchmark.timing import warm_profiler
from smoothout.data.split import Split
from smoothout.models.mlp import MLP
from smoothout.models.resnet import ResNet
from smoothout.models.resnet18 import ResNet18
from smoothout.models.shallow import Shallow
from smoothout.nn.options import NoiseScaling
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

T = TypeVar("T")
PLAIN, SMOOTHOUT = NoiseConfig(), NoiseConfig(0.0375)
ADASMOOTHOUT = NoiseConfig(0.15, scaling=NoiseScaling.filter)
ENDLESS = 10**6  # epochs


class Workload(NamedTuple):
    """A network and its images: ``model`` (settings), the images' ``shape`` (C, H, W), ``classes``, training images."""

    model: Any
    shape: tuple[int, int, int]
    classes: int = 10
    examples: int = 50_000

    def network(self, seed: int = 0) -> nn.Module:
        """A fresh network on the CPU."""
        torch.manual_seed(seed)
        network: nn.Module = self.model.build(self.shape, self.classes)
        return network

    def parameters(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self.network().parameters())


F1, C1 = Workload(MLP(), (1, 28, 28), examples=60_000), Workload(Shallow(), (3, 32, 32))
C3, RESNET44 = C1._replace(classes=100), C1._replace(model=ResNet(44))
RESNET18 = Workload(ResNet18(), (3, 224, 224), 1000)


def random_split(
    shape: tuple[int, int, int], classes: int, examples: int, device: torch.device, seed: int = 0
) -> Split:
    """Random images whose classes differ in brightness, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    labels = torch.randint(0, classes, (examples,), generator=generator)
    noise = torch.randint(0, 120, (examples, height, width, channels), generator=generator, dtype=torch.uint8)
    images = noise + (130 * labels // classes).to(torch.uint8).view(-1, 1, 1, 1)
    return Split(images.to(device), labels.to(device), (0.5,) * channels, (0.5,) * channels)


def updates(
    workload: Workload,
    device: torch.device,
    *,
    batch: Batch | int = 256,
    examples: int = 10_240,
    data: Split | None = None,
    **settings: Any,
) -> Iterator[TrainingState]:
    """An endless training, as ``train.py`` runs it; each step of the iterator is an update.

    ``data`` replaces random images, ``settings`` are the trainer's: without them Adam, no noise, seed 0.
    """
    warm_profiler(device.type)
    data = data or random_split(workload.shape, workload.classes, examples, device)
    settings = {"optimizer": Adam(2.0**-10), "method": PLAIN, "schedule": Schedule(ENDLESS), "seed": 0, **settings}
    network = workload.network(settings["seed"]).to(device)
    sizes = batch if isinstance(batch, Batch) else Batch(batch)
    return iter(Trainer(network, data, data.first(100), batch=sizes, **settings))


def advance(steps: Iterator[T], count: int) -> T:
    """The last of the next ``count`` (at least 1) steps."""
    return next(islice(steps, count - 1, None))
