"""The program: which checks there are, on which device, and its exit code."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import torch

from smoothout.benchmark.gpu_check import numerics, trainings
from smoothout.benchmark.gpu_check.check import Check, Found, carry_out
from smoothout.benchmark.gpu_check.processes import two_are_one
from smoothout.benchmark.gpu_check.small import f1, published_c1
from smoothout.benchmark.gpu_check.timings import METHODS, Setting, times
from smoothout.benchmark.gpu_check.trainings import KINDS, ONE_NOISE, PLAIN, SMOOTHOUT, Crowd
from smoothout.common.devices import why_no_gpu
from smoothout.common.environment import environment
from smoothout.models.mlp import MLP
from smoothout.models.resnet import ResNet
from smoothout.models.shallow import Shallow
from smoothout.nn.options import Precision

F1_SHAPE, C1_SHAPE = (1, 28, 28), (3, 32, 32)
CROWDS = {
    "F1, small batches": Crowd(f1, F1_SHAPE, 256),
    "F1, large batches": Crowd(f1, F1_SHAPE, 6000),
    "C1 with dropout": Crowd(published_c1, C1_SHAPE, 256),
}
TIMED = {
    f"{name} at {batch}": Setting(model.build, shape, examples, batch)
    for name, model, shape, examples, batches in (
        ("F1", MLP(), F1_SHAPE, 60_000, (256, 6000)),
        ("C1", Shallow(), C1_SHAPE, 50_000, (256, 5000)),
        ("ResNet44", ResNet(44), C1_SHAPE, 50_000, (128, 2048)),
    )
    for batch in batches
}
SHORT = 320  # examples that --quick trains on: five updates an epoch


def checks(quick: bool) -> list[Check]:
    """All of them, in the order of the report; those that take long, in short where it is to be ``quick``."""
    short = (SHORT,) if quick else ()
    crowds = {name: replace(c, batch=c.batch // 4, count=2, updates=3) if quick else c for name, c in CROWDS.items()}
    timed = list(TIMED.items())[: 1 if quick else None]
    noises = {"no noise": PLAIN, "one noise": ONE_NOISE, "own noise": SMOOTHOUT}
    return [
        Check("device", device_is),
        Check("versions", versions_are),
        Check("noise has its law", numerics.noise_has_its_law),
        Check("AdaSmoothOut scales to filters", numerics.filters_have_their_length),
        Check("weights come back", numerics.weights_come_back),
        Check("precision", numerics.precision_is_what_it_says),
        *(Check(f"graph and eager, {kind}", trainings.graph_is_eager, (kind, *short)) for kind in KINDS),
        *(
            Check(f"ghost batches in one pass and in turn, {name}", trainings.one_pass_is_in_turn, (noise,))
            for name, noise in noises.items()
        ),
        Check("GPU and CPU, a training", numerics.training_is_the_cpus),
        Check("GPU and CPU, analyses", numerics.analyses_are_the_cpus),
        Check("resumed and unbroken", trainings.resumed_is_unbroken, short),
        *(Check(f"at once and alone, {name}", trainings.at_once_is_alone, (c,)) for name, c in crowds.items()),
        Check("memory comes back", trainings.memory_comes_back, (64,) if quick else ()),
        Check("another GPU", trainings.other_gpu_trains, ("momentum, learning rate drops", *short)),
        Check("two processes and one", two_are_one, short),
        *(
            Check(f"an update of {name}, {precision}", times, (setting, precision, tuple(METHODS)))
            for name, setting in timed
            for precision in (Precision.float32, Precision.bfloat16)
        ),
    ]


def device_is(device: torch.device) -> Found:
    """Shows the GPU."""
    gpu, chip = environment(device)["gpu"], torch.cuda.get_device_properties(device)
    memory, count = f"{chip.total_memory / 2**30:.0f} GiB", torch.cuda.device_count()
    parts = f"{gpu['multiprocessors']} multiprocessors, capability {gpu['capability']}"
    return Found(None, f"{device} of {count}: {chip.name}, {memory}, {parts}")


def versions_are(device: torch.device) -> Found:
    """Shows what runs it."""
    here = environment(device)
    gpu = here["gpu"]
    runtime = f"ROCm {gpu['hip']}" if gpu["hip"] else f"CUDA {gpu['cuda']}"
    return Found(
        None,
        f"torch {here['versions']['torch']}, {runtime}, cuDNN {gpu['cudnn']}, driver {gpu['driver'] or 'unknown'},"
        f" Python {here['python']}, commit {here['commit']}",
    )


def main(name: str, quick: bool) -> int:
    """Check the GPU of that ``name``; returns the exit code: 0 all holds, 1 something fails, 2 there is no such GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products with the same bits, from the first one on
    device, reason = _device(name)
    if device is None:
        print(reason, file=sys.stderr)
        return 2
    torch.cuda.set_device(device)
    return 0 if carry_out(checks(quick), device, lambda line: print(line, flush=True)) else 1


def _device(name: str) -> tuple[torch.device | None, str]:
    """The GPU of that name with its number, or why it cannot be checked."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type != "cuda":
        return None, f"device: {name!r} is not one of cuda, cuda:N; this program checks a GPU"
    reason = why_no_gpu()
    if reason:
        return None, f"no GPU to check: {reason}"
    index = device.index or 0
    if index >= torch.cuda.device_count():
        return None, f"device: {name!r} is not here; this machine has {torch.cuda.device_count()}, from cuda:0 on"
    return torch.device("cuda", index), ""
