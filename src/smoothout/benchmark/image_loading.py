"""How fast photographs come from their files, against torchvision's own pipeline on the same files.

What was tried to decode and resize, one thread, 224-pixel JPEGs of imagenette on an AMD EPYC, CPU time a photograph;
ours in all, from the file to the ring, 0.9 ms. At most 0.2 ms of it hold Python's lock, so no process passes 5,000 a
second, whatever its threads:

==========================  ========  =================  ==============================================================
library                     decode    and resized crop   why it was not taken, or was
==========================  ========  =================  ==============================================================
Pillow 13                   0.30 ms   0.69 ms            taken: the pixels of the published pipeline, and no dependency
                                                         more; it gives Python's lock back
OpenCV 5                    0.20 ms   0.29 ms            the same pixels decoded, but its resize does not antialias
simplejpeg 1.9              0.15 ms   -                  the same; it has no resize
torchvision 0.28            -         -                  its decode_jpeg did not load beside this torch
Pillow's draft              -         -                  ``data.draft``: less of a large photograph is decoded
DALI, nvJPEG, FFCV          -         -                  not tried: they need a GPU, or files of their own format, and
                                                         resize otherwise
==========================  ========  =================  ==============================================================

Where time is saved against the plain pipeline: only the piece is resized, threads write into one ring and copy nothing
between processes, and what becomes float32 and normalised does so by the batch, on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import torch

from smoothout.benchmark.baselines import photographs_by_loader
from smoothout.benchmark.rows import Row, faster
from smoothout.benchmark.timing import SubprocessWork, compare
from smoothout.common.errors import DataError
from smoothout.data.crops import Crop
from smoothout.data.image_folder import Collection, ImageFolder
from smoothout.data.prefetch import available_cores

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
EXAMPLES, BATCH = 1024, 128


def epochs(settings: ImageFolder, data: Path, device: torch.device) -> Callable[[], None]:
    """A function that brings all photographs to the device, as a training takes them; they are found in ``data``."""
    split = settings.load(data, device)[0].to_memory_format(torch.channels_last)
    learnt, epoch = split.training_view(settings.augmentation, seed=0), count()

    def one() -> None:
        learnt.set_epoch(next(epoch))
        for rows in torch.split(learnt.prefetch(torch.randperm(len(learnt)), 0), BATCH):
            learnt.gather(rows)

    return one


def photographs(device: torch.device, data: Path, crop: Crop, name: str) -> Row:
    """Photographs a second as a training takes them, against torchvision's pipeline, each with a worker a core."""
    what = f"{name} photographs/s / torchvision's pipeline, 224 pixels"
    settings = ImageFolder(
        Collection.imagenette, MEAN, STD, train_examples=EXAMPLES, augment=crop, workers=available_cores()
    )
    try:
        ours = epochs(settings, data, device)
    except DataError as error:
        return Row(what, note=str(error))
    arguments = data / settings.name / "train", settings, BATCH, str(device)
    with SubprocessWork(photographs_by_loader, arguments, torch.get_num_threads()) as plain:
        ratio = compare(ours, plain, device, turns=5, warm_up=1)
    speeds = (f"{EXAMPLES / min(seconds):.0f}" for seconds in (ratio.ours, ratio.reference))
    note = "imagenette, {} workers each; best turn {} photographs/s, torchvision {}".format(settings.workers, *speeds)
    return faster(what, 1, ratio, ours, device, note=note)


FROM_FILES: dict[str, Callable[[torch.device, Path], Row]] = {
    "photographs-resnet18": partial(photographs, crop=Crop.resized_crop_flip, name="ResNet18's"),
    "photographs-alexnet": partial(photographs, crop=Crop.crop_flip, name="AlexNet's"),
}
