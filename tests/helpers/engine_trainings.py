"""Networks and trainings for the tests of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from smoothout.data.split import Split
from smoothout.nn.options import Precision
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

EXAMPLES, SIZE, UPDATES = 22, 6, 4  # the last batch of an epoch has 4 examples
LR = 2.0**-7  # float32 holds it exactly, as it holds the lower ones after a drop to a half
DIGEST = "e7" * 32
Splits = Callable[..., Split]


def network(dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Linear(16, 12, bias=False)  # before BatchNorm a bias has a gradient of rounding alone
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def training(tiny_split: Splits, model: nn.Module, launch: Launch = Launch.eager, **changes: Any) -> Trainer:
    """A training of three epochs of four updates; anything can be changed."""
    settings: dict[str, Any] = {
        "optimizer": Adam(LR),
        "schedule": Schedule(3),
        "batch": Batch(SIZE),
        "method": NoiseConfig(),
        "seed": 0,
        "engine": Engine(launch),
        **changes,
    }
    return Trainer(model, tiny_split(EXAMPLES), tiny_split(10, seed=1), **settings)


def told_capturable(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Fills with whether each training that is made from now on says that its updates can be recorded."""
    found, resolved = list[bool](), Engine.resolved

    def look(self: Engine, device: torch.device, precision: Precision, capturable: bool, *more: Any) -> Engine:
        found.append(capturable)
        return resolved(self, device, precision, capturable, *more)

    monkeypatch.setattr(Engine, "resolved", look)
    return found
