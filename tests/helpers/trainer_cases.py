"""Trainings of three epochs of four updates, for the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smoothout.data.augment import AffineFlip, CropFlip
from smoothout.data.split import Split
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.adversarial import Adversarial
from smoothout.training.methods.arwp import ARWP
from smoothout.training.methods.asam import ASAM
from smoothout.training.methods.averaging import Average, WeightAveraging
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.lpf_sgd import LPFSGD, GammaSchedule
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.msam import MSAM
from smoothout.training.methods.nso import NSO
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer, StrengthSchedule
from smoothout.training.methods.stability import Stability
from smoothout.training.optimizers import SGD, Adam, Epsilon, Optimizer
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

EXAMPLES, SIZE, UPDATES = 22, 6, 4  # the last batch of an epoch has 4 examples
Splits = Callable[..., Split]


def network(seed: int = 0, dropout: float = 0.0, batchnorm: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(12) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def run(model: nn.Module, tiny_split: Splits, **changes: Any) -> TrainingState:
    """A training of three epochs of four updates; anything can be changed."""
    settings = {
        "optimizer": Adam(0.01),
        "schedule": Schedule(3),
        "batch": Batch(SIZE),
        "method": NoiseConfig(),
        "seed": 0,
        "train_split": tiny_split(EXAMPLES),
        "test_split": tiny_split(10, seed=1),
        **changes,
    }
    after_step = settings.pop("after_step", lambda now, frozen: None)
    training = Trainer(model, settings.pop("train_split"), settings.pop("test_split"), **settings)
    for now in training:
        after_step(now, training.state)
    return training.state()


class Counting(torch.optim.Optimizer):
    """Steps that shrink with their number, a plain int in the state."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                parameter.add_(parameter.grad, alpha=-group["lr"] / state["step"])


@dataclass(frozen=True)
class Another(Optimizer):
    """An optimizer that this package does not know, as a user would add it."""

    kind: type[Any] = Counting

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = self.kind(parameters, lr=self.lr)
        return made


ANOTHER = {kind.__name__: kind for kind in (Counting, torch.optim.NAdam, torch.optim.Rprop, torch.optim.Adafactor)}
METHODS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimizer reset": {"optimizer": Adam(0.01, reset_every_epoch=True, clip_norm=5.0)},
    "uncorrected epsilon": {"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected)},
    "uncorrected epsilon, reset": {"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected, reset_every_epoch=True)},
    "momentum kept": {"optimizer": SGD(0.1, weight_decay=1e-3)},
    "momentum reset": {"optimizer": SGD(0.1, reset_every_epoch=True)},
    **{name: {"optimizer": Another(0.01, kind=kind)} for name, kind in ANOTHER.items()},
    "smoothout": {"method": NoiseConfig(0.1)},
    "gaussian, falling": {
        "method": NoiseConfig(0.1, NoiseDistribution.gaussian, strength_schedule=StrengthSchedule.tanh_falling)
    },
    "adasmoothout": {"method": NoiseConfig(0.15, scaling=NoiseScaling.filter, batchnorm=True)},
    "noise left in": {"method": NoiseConfig(0.01, denoise=False)},
    "copies": {"method": NoiseConfig(0.1, copies=3)},
    "ghost batches": {
        "method": NoiseConfig(0.1, noise_per=NoisePer.batch),
        "batch": Batch(SIZE, 2),
        "schedule": Schedule(3, (2,)),
    },
    "sam": {"method": SAM(0.5)},
    "asam, dropout": {"dropout": 0.5, "method": ASAM(0.5)},
    "lpf-sgd, rising": {"method": LPFSGD(0.05, GammaSchedule.cosine, 4.0), "batch": Batch(SIZE, 2)},
    "arwp": {"method": ARWP(0.1, 2.0, 0.7), "batch": Batch(SIZE, 2)},
    "nso, dropout": {"dropout": 0.5, "method": NSO(0.05)},
    "m-rwp, augmented": {"method": MixedRWP(0.05, 0.3), "batch": Batch(SIZE, 2), "augmentation": CropFlip((127,))},
    "msam": {"method": MSAM(0.4)},
    "msam, optimizer reset": {"method": MSAM(0.4), "optimizer": Adam(0.01, reset_every_epoch=True)},
    "swa, dropout": {"dropout": 0.5, "method": WeightAveraging(start=0.4)},
    "ema": {"method": WeightAveraging(Average.ema, 0.4, 0.8)},
    "sam, dropout, ghosts": {"dropout": 0.5, "method": SAM(0.5), "batch": Batch(SIZE, 3)},
    "conservative": {"method": Conservative(0.1)},
    "conservative, dropout, ghosts, reset": {
        "dropout": 0.5,
        "method": Conservative(0.1, iterations=2),
        "batch": Batch(SIZE, 3),
        "optimizer": Adam(0.01, reset_every_epoch=True, clip_norm=5.0),
    },
    "adversarial, dropout, ghosts": {"dropout": 0.5, "method": Adversarial(0.3), "batch": Batch(SIZE, 3)},
    "adversarial": {"method": Adversarial(0.3)},
    "stability, dropout, ghosts": {"dropout": 0.5, "method": Stability(0.5), "batch": Batch(SIZE, 3)},
    "stability": {"method": Stability(0.5)},
    "dropout": {"dropout": 0.5, "method": NoiseConfig(0.1)},
    "dropout, copies, ghosts": {"dropout": 0.5, "method": NoiseConfig(0.1, copies=2), "batch": Batch(SIZE, 3)},
    "augmented": {"augmentation": CropFlip((127,)), "method": NoiseConfig(0.1), "batch": Batch(SIZE, 2)},
    "rotated": {"augmentation": AffineFlip((127,)), "batch": Batch(SIZE, 2)},
}
