"""Trainings on several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smoothout.data.augment import AffineFlip, CropFlip
from smoothout.data.split import Split
from smoothout.nn.options import NoiseDistribution, NoiseScaling, StatisticsFrom
from smoothout.training.batch import Batch
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, GhostPasses
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
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

EXAMPLES, TESTED = 47, 10
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
SETTINGS: dict[str, Any] = {
    "optimizer": SGD(0.05, weight_decay=1e-3, clip_norm=0.5),
    "schedule": Schedule(2),
    "batch": Batch(12, 3),  # an epoch's last update has 11 examples: 3, 3, 3 and 2
    "method": NoiseConfig(),
    "seed": 0,
}
LAST_IS_ONE = "an epoch's last update is one ghost batch"
CASES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adam, new in every epoch": {"optimizer": Adam(0.01, reset_every_epoch=True)},
    "noise of their own": {"method": NoiseConfig(0.1)},
    "one noise": {"method": NoiseConfig(0.1, noise_per=NoisePer.batch)},
    "gaussian, falling": {
        "method": NoiseConfig(0.1, NoiseDistribution.gaussian, strength_schedule=StrengthSchedule.tanh_falling)
    },
    "adasmoothout": {"method": NoiseConfig(0.2, scaling=NoiseScaling.filter, batchnorm=True)},
    "noise left in": {"method": NoiseConfig(0.1, scaling=NoiseScaling.filter, denoise=False)},
    "one noise left in": {"method": NoiseConfig(0.1, noise_per=NoisePer.batch, denoise=False)},
    "copies": {"method": NoiseConfig(0.1, copies=2)},
    "dropout": {"method": NoiseConfig(0.1), "dropout": 0.5},
    "sam": {"method": SAM(0.5), "dropout": 0.5},
    "asam": {"method": ASAM(0.5)},
    "lpf-sgd": {"method": LPFSGD(0.05, GammaSchedule.cosine, 4.0)},
    "lpf-sgd, clean statistics": {"method": LPFSGD(0.05, statistics_from=StatisticsFrom.both)},
    "arwp": {"method": ARWP(0.1, 2.0, 0.7)},
    "nso": {"method": NSO(0.05), "dropout": 0.5},
    "m-rwp": {"method": MixedRWP(0.05, 0.3)},
    "msam": {"method": MSAM(0.4)},
    "swa": {"method": WeightAveraging(start=0.0)},
    "ema": {"method": WeightAveraging(Average.ema, 0.4, 0.8)},
    "conservative": {"method": Conservative(0.1), "dropout": 0.5},
    "conservative, adam": {"method": Conservative(0.1), "optimizer": Adam(0.01), "batch": Batch(6, 3, 2)},
    "adversarial": {"method": Adversarial(0.3), "dropout": 0.5},
    "stability": {"method": Stability(0.5), "dropout": 0.5},
    "augmented": {"augmentation": CropFlip((127,))},
    "rotated": {"augmentation": AffineFlip((127,))},
    "batches added up": {"method": NoiseConfig(0.1), "batch": Batch(5, None, 4)},
    LAST_IS_ONE: {"batch": Batch(4, None, 9), "examples": 39},
    "one pass": {"batch": Batch(6, 2, 4), "examples": 46, "engine": Engine(ghosts=GhostPasses.batched)},
    "one pass where a rank has whole batches": {
        "batch": Batch(8, 2, 3),
        "examples": 46,
        "engine": Engine(ghosts=GhostPasses.batched),
    },
}


class Exact(nn.Module):
    """A small network in float64, where sums in another order differ by 1e-16 and not by what Adam makes of 1e-8."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [nn.Linear(16, 12, bias=False), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(12, 3)).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double())


def split(examples: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    pixels = torch.randint(0, 120, (examples, 4, 4, 1), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
    return Split(pixels.to(torch.uint8), labels, (0.5,), (0.5,))


def training(ranks: ProcessGroup, **changes: Any) -> Trainer:
    settings = {**SETTINGS, **changes}
    model = Exact(settings.pop("dropout", 0.0))
    train_split = split(settings.pop("examples", EXAMPLES))
    return Trainer(model, train_split, split(TESTED, 1), ranks=ranks, **settings)


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)
