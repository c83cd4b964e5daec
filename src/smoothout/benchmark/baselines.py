"""Baselines of the benchmark: training loops in the style of torch's tutorials."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from smoothout.benchmark.timing import Work
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import Crop
from smoothout.data.image_folder import ImageFolder
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context


class GrayImages(Dataset[tuple[Tensor, int]]):
    """Gray images as torchvision's MNIST gives them: one by one, through PIL and torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        import_torchvision()
        from torchvision import transforms  # noqa: PLC0415  (must come after the call above)

        self._images, self._labels = images, labels
        self._transform: Any = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


def epoch_by_loader(model: nn.Module, images: np.ndarray, labels: np.ndarray, batch: int, device: str) -> Work:
    """An epoch of Adam on ``device`` over ``images`` from a shuffling DataLoader with two workers."""
    loader = _loader(GrayImages(images, labels), batch, workers=2, device=device)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> None:
        model.train()
        running = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs = model(inputs.to(device, non_blocking=True))
            loss = F.cross_entropy(outputs, targets.to(device, non_blocking=True))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            running += loss.item()

    return epoch


def _loader(data: Dataset[Any], batch: int, workers: int, device: str, **settings: Any) -> DataLoader[Any]:
    """A shuffling DataLoader, its workers forked where the system can: a spawned process would spawn its own."""
    start = "fork" if "fork" in get_all_start_methods() and workers else None
    pin = device != "cpu"
    return DataLoader(
        data, batch, shuffle=True, num_workers=workers, multiprocessing_context=start, pin_memory=pin, **settings
    )


def bare_updates(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Iterator[None]:
    """An endless loop over uint8 ``images``, (N, C, H, W), on the model's device; each step is an update of Adam.

    Nothing but the update: batches in random order, scaled to [-1, 1]; no number is read back.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    while True:
        for rows in torch.split(torch.randperm(len(labels)).to(labels.device), batch):
            inputs = images[rows].float().div_(127.5).sub_(1)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield


def eager_steps(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int, device: str) -> Work:
    """``steps`` updates of Adam on one batch on ``device``, in float32 and the memory format of ``inputs``."""
    model.to(device)
    inputs, targets = inputs.to(device), targets.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def work() -> None:
        model.train()
        with precision_context(Precision.float32, inputs.device):
            for _ in range(steps):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        loss.item()  # waits for the device, because the caller times it from another process

    return work


def images_by_loader(folder: Path, data: ImageFolder, batch: int, device: str) -> Work:
    """An epoch of ``data`` in an ImageFolder tree to ``device``, as torchvision's own training reference reads it.

    torchvision's transforms one by one, in a shuffling DataLoader with persistent workers.
    """
    import_torchvision()
    from torchvision import datasets, transforms  # noqa: PLC0415  (must come after the call above)

    crop = [transforms.RandomResizedCrop(data.crop_size)]
    if data.augment is Crop.crop_flip:
        crop = [transforms.Resize(data.resize_size), transforms.RandomCrop(data.crop_size)]
    normalize = transforms.Normalize(data.mean, data.std)
    pipeline = transforms.Compose([*crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
    images = datasets.ImageFolder(str(folder), pipeline)
    rows = torch.randperm(len(images))[: data.train_examples].tolist()
    workers = data.workers or 0
    loader = _loader(Subset(images, rows), batch, workers, device, persistent_workers=bool(workers))

    def epoch() -> None:
        for inputs, targets in loader:
            inputs.to(device, non_blocking=True)
            targets.to(device, non_blocking=True)

    return epoch
