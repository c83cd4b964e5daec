"""What our trainer is measured against: loops as anyone would write them from torch's own tutorials."""

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


class GreyImages(Dataset[tuple[Tensor, int]]):
    """Grey images as torchvision's MNIST hands them out: one by one, through PIL and torchvision's transforms."""

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
    start = "fork" if "fork" in get_all_start_methods() else None  # in a fresh process the default would be its own
    data = GreyImages(images, labels)
    loader = DataLoader(
        data, batch, shuffle=True, num_workers=2, multiprocessing_context=start, pin_memory=device != "cpu"
    )
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


def bare_updates(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Iterator[None]:
    """A loop without end over uint8 ``images``, (N, C, H, W), on the model's device; each step is an update of Adam.

    Nothing but the update: batches in random order, scaled to [-1, 1], and no number is read back.
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
    """So many updates of Adam on one batch on ``device``, in float32 and the layout that ``inputs`` have."""
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
        loss.item()  # waits for the device: whoever times this does so in another process

    return work


def photographs_by_loader(folder: Path, data: ImageFolder, batch: int, device: str) -> Work:
    """An epoch of ``data`` in an ImageFolder tree to ``device``, as torchvision's own training reference reads it.

    torchvision's transforms one by one, in a shuffling DataLoader whose workers stay.
    """
    import_torchvision()
    from torchvision import datasets, transforms  # noqa: PLC0415  (must come after the call above)

    cut = [transforms.RandomResizedCrop(data.crop_size)]
    if data.augment is Crop.crop_flip:
        cut = [transforms.Resize(data.resize_size), transforms.RandomCrop(data.crop_size)]
    normalise = transforms.Normalize(data.mean, data.std)
    whole = [*cut, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalise]
    tree = datasets.ImageFolder(str(folder), transforms.Compose(whole))
    chosen = torch.randperm(len(tree))[: data.train_examples].tolist()
    start = "fork" if "fork" in get_all_start_methods() else None
    loader: DataLoader[Any] = DataLoader(
        Subset(tree, chosen),
        batch,
        shuffle=True,
        num_workers=data.workers or 0,
        persistent_workers=bool(data.workers),
        multiprocessing_context=start,
        pin_memory=device != "cpu",
    )

    def epoch() -> None:
        for inputs, targets in loader:
            inputs.to(device, non_blocking=True)
            targets.to(device, non_blocking=True)

    return epoch
