"""No eager update makes the host wait for its device. (A recorded one cannot: the tape of `tape.py` refuses it.)"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from helpers.engine_trainings import SIZE, Splits, network, training
from helpers.other_device import WAITING
from test_engine_graphs import METHODS, convolutions, drawn_on_the_device, normal_on_the_device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smoothout.nn import filter_noise, noise_pair, perturbation
from smoothout.training.batch import Batch
from smoothout.training.dropout import DropoutRng
from smoothout.training.engine import Engine, GhostPasses
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer
from smoothout.training.optimizers import Adam, Epsilon

OTHERS: dict[str, dict[str, Any]] = {
    "copies": {"method": NoiseConfig(0.1, copies=2)},
    "sam under dropout": {"model": lambda: network(0.5), "method": SAM(0.5)},
    "dropout over ghost batches": {"model": lambda: network(0.5), "method": NoiseConfig(0.1), "batch": Batch(SIZE, 2)},
    "several batches per update": {"method": NoiseConfig(0.1), "batch": Batch(3, None, 2)},
    "ghost batches in one pass": {
        "model": convolutions,
        "method": NoiseConfig(0.1, noise_per=NoisePer.batch),
        "batch": Batch(SIZE, 2),
        "engine": Engine(ghosts=GhostPasses.batched),
    },
    "uncorrected epsilon": {"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected)},
}


class Waits(TorchDispatchMode):
    """Collects operations that would wait for a device: a number is read, or a shape depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        tensors = [one for one in tree_leaves(arguments) if isinstance(one, Tensor)]
        by_truth = name in {"index", "index_put", "index_put_"} and any(one.dtype == torch.bool for one in tensors[1:])
        if name in WAITING or by_truth:
            self.found.append(str(operation))
        return operation(*arguments, **(settings or {}))


@pytest.mark.parametrize("kind", [*METHODS, *OTHERS])
def test_no_eager_update_waits_for_its_device(kind: str, tiny_split: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "uniform_", drawn_on_the_device)
    for module in (filter_noise, noise_pair):
        monkeypatch.setattr(module, "normal_", normal_on_the_device)
    settings = {"model": network, **{**METHODS, **OTHERS}[kind]}
    steps = iter(training(tiny_split, settings.pop("model")(), **settings))
    next(steps)  # only this one looks for randomness that nobody seeds
    monkeypatch.setattr(DropoutRng, "checked", lambda self: nullcontext())
    with Waits() as waits:
        next(steps)
    assert waits.found == []
