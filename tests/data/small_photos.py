"""Photographs of a few pixels, and a network trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothout.data.crops import Crop
from smoothout.data.image_folder import Collection, Photos, PhotoSplit
from smoothout.models.mlp import MLP
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import Snapshot
from smoothout.training.methods.smoothout import Noise
from smoothout.training.optimizers import Momentum
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Training

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos(**settings: Any) -> Photos:
    return Photos(Collection.imagenette, MEAN, STD, **{"side": 12, "short": 14, "workers": 2, **settings})


def loaded(folder: Path, **settings: Any) -> tuple[PhotoSplit, PhotoSplit, str]:
    return photos(**settings).load(folder, CPU)


def whole(split: PhotoSplit) -> Tensor:
    return torch.cat([images for images, _ in split.batches(7)])


def names(split: PhotoSplit) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in split._files.paths]


def run(folder: Path, workers: int, resume: Snapshot | None = None, **settings: Any) -> Training:
    train, test, _ = loaded(folder, workers=workers, augment=Crop.resized_crop_flip)
    torch.manual_seed(0)
    return Training(
        MLP(8, 1).build((3, 12, 12), 10),
        train,
        test,
        augmentation=photos(augment=Crop.resized_crop_flip).augmentation,
        resume=resume,
        **{
            "optimizer": Momentum(0.1),
            "schedule": Schedule(2),
            "batch": Batch(8, 4, 2),
            "noise": Noise(0.01),
            "seed": 3,
            **settings,
        },
    )
