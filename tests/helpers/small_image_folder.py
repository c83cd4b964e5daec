"""Images of a few pixels in folders, and a network trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothout.data.crops import Crop
from smoothout.data.datasets import Collection
from smoothout.data.image_folder import ImageFolder
from smoothout.data.image_loader import ImageFolderSplit
from smoothout.models.mlp import MLP
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_folder(**settings: Any) -> ImageFolder:
    return ImageFolder(
        Collection.imagenette, MEAN, STD, **{"crop_size": 12, "resize_size": 14, "workers": 0, **settings}
    )


def loaded(folder: Path, **settings: Any) -> tuple[ImageFolderSplit, ImageFolderSplit, str]:
    return image_folder(**settings).load(folder, CPU)


def whole(split: ImageFolderSplit) -> Tensor:
    return torch.cat([images for images, _ in split.batches(7)])


def names(split: ImageFolderSplit) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in split._files.paths]


def run(folder: Path, workers: int, resume: TrainingState | None = None, **settings: Any) -> Trainer:
    train, test, _ = loaded(folder, workers=workers, augment=Crop.resized_crop_flip)
    torch.manual_seed(0)
    return Trainer(
        MLP(8, 1).build((3, 12, 12), 10),
        train,
        test,
        augmentation=image_folder(augment=Crop.resized_crop_flip).augmentation,
        resume=resume,
        **{
            "optimizer": SGD(0.1),
            "schedule": Schedule(2),
            "batch": Batch(8, 4, 2),
            "method": NoiseConfig(0.01),
            "seed": 3,
            **settings,
        },
    )
