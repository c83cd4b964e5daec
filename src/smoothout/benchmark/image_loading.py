"""How fast images come from their files, against torchvision's own pipeline on the same files.

Which JPEG libraries were tried, and where the time goes, is in results/benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch

from smoothout.benchmark.baselines import images_by_loader
from smoothout.benchmark.rows import Row, speed_ratio
from smoothout.benchmark.timing import subprocess_work
from smoothout.common.errors import DataError
from smoothout.data.crops import Crop
from smoothout.data.datasets import Collection
from smoothout.data.image_files import available_cores
from smoothout.data.image_folder import ImageFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
EXAMPLES, BATCH = 1024, 128


def epochs(settings: ImageFolder, data: Path, device: torch.device) -> Callable[[], None]:
    """A function that brings all images of the folder ``data`` to the device, as a training takes them."""
    split = settings.load(data, device)[0].to_memory_format(torch.channels_last)
    view, numbers = split.training_view(settings.augmentation, seed=0), count()

    def epoch() -> None:
        view.set_epoch(next(numbers))
        for rows in torch.split(view.prefetch(torch.randperm(len(view)), 0), BATCH):
            view.gather(rows)

    return epoch


def images_per_second(device: torch.device, data: Path, crop: Crop, name: str) -> Row:
    """Images per second as a training takes them, against torchvision's pipeline, each with a worker per core."""
    what = f"{name} images/s / torchvision's pipeline, 224 pixels"
    workers = available_cores()
    settings = ImageFolder(Collection.imagenette, MEAN, STD, train_examples=EXAMPLES, augment=crop, workers=workers)
    try:
        ours = epochs(settings, data, device)
    except DataError as error:
        return Row(what, note=str(error))
    arguments = data / settings.name / "train", settings, BATCH, str(device)
    with subprocess_work(images_by_loader, arguments) as plain:
        row = speed_ratio(what, 1, ours, plain, device, turns=5, warm_up=1)
    fastest, torchvisions = (f"{EXAMPLES / min(row.times[side]):.0f}" for side in ("ours", "reference"))
    note = f"imagenette, {workers} workers each; best turn {fastest} images/s, torchvision {torchvisions}"
    return replace(row, note=note)


FROM_FILES: dict[str, Callable[[torch.device, Path], Row]] = {
    "images-resnet18": partial(images_per_second, crop=Crop.resized_crop_flip, name="ResNet18's"),
    "images-alexnet": partial(images_per_second, crop=Crop.crop_flip, name="AlexNet's"),
}
