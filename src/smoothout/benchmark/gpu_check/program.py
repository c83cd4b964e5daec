"""The program: which checks there are, on which device, and the exit code."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace

import torch

from smoothout.benchmark.gpu_check import concurrency, numerics, trainings
from smoothout.benchmark.gpu_check.check import Check, Finding, run_checks
from smoothout.benchmark.gpu_check.concurrency import ConcurrentTrainings
from smoothout.benchmark.gpu_check.timings import time_methods
from smoothout.benchmark.workloads import C1, F1, PLAIN, RESNET44
from smoothout.common.devices import why_no_gpu
from smoothout.common.environment import environment
from smoothout.nn.options import Precision

CONCURRENT = {
    "F1, small batches": ConcurrentTrainings(F1, 256),
    "F1, large batches": ConcurrentTrainings(F1, 6000),
    "C1 with dropout": ConcurrentTrainings(C1, 256),
}
TIMED = {
    "F1 at 256": (F1, 256),
    "F1 at 6000": (F1, 6000),
    "C1 at 256": (C1, 256),
    "C1 at 5000": (C1, 5000),
    "ResNet44 at 128": (RESNET44, 128),
    "ResNet44 at 2048": (RESNET44, 2048),
}
SHORT = 320  # training examples with --quick: five updates per epoch


def checks(quick: bool) -> list[Check]:
    """All checks, in the order of the report; ``quick`` shortens those that take long."""
    short = (SHORT,) if quick else ()
    timed = list(TIMED.items())[: 1 if quick else None]
    groups = {
        name: replace(group, batch=group.batch // 4, count=2, updates=3) if quick else group
        for name, group in CONCURRENT.items()
    }
    return [
        Check("machine", show_machine),
        Check("noise has its distribution", numerics.noise_is_distributed),
        Check("AdaSmoothOut scales to filters", numerics.noise_scales_to_filters),
        Check("weights are restored", numerics.weights_are_restored),
        Check("precision", numerics.precision_is_kept),
        *(Check(f"graph and eager, {kind}", trainings.graph_equals_eager, (kind, *short)) for kind in trainings.KINDS),
        *(
            Check(f"ghost batches batched and sequential, {name}", trainings.batched_equals_sequential, (noise,))
            for name, noise in (("no noise", PLAIN), ("one noise", trainings.ONE_NOISE))
        ),
        Check("GPU and CPU, a training", numerics.training_equals_cpu),
        Check("GPU and CPU, analyses", numerics.analyses_equal_cpu),
        Check("resumed and uninterrupted", trainings.resumed_equals_uninterrupted, short),
        *(
            Check(f"concurrent and alone, {name}", concurrency.concurrent_equal_alone, (group,))
            for name, group in groups.items()
        ),
        Check("memory is freed", concurrency.memory_is_freed, (64,) if quick else ()),
        Check("another GPU", trainings.other_gpu_trains, ("momentum, learning rate drops", *short)),
        Check("two processes and one", trainings.two_processes_equal_one, short),
        *(
            Check(f"an update of {name}, {precision}", time_methods, (*workload_and_batch, precision))
            for name, workload_and_batch in timed
            for precision in (Precision.float32, Precision.bfloat16)
        ),
    ]


def show_machine(device: torch.device) -> Finding:
    """Shows the GPU, and the versions of libraries and driver."""
    machine, chip = environment(device), torch.cuda.get_device_properties(device)
    gpu, count = machine["gpu"], torch.cuda.device_count()
    parts = f"{gpu['multiprocessors']} multiprocessors, capability {gpu['capability']}"
    runtime = f"ROCm {gpu['hip']}" if gpu["hip"] else f"CUDA {gpu['cuda']}"
    return Finding(
        None,
        f"{device} of {count}: {chip.name}, {chip.total_memory / 2**30:.0f} GiB, {parts};"
        f" torch {machine['versions']['torch']}, {runtime}, cuDNN {gpu['cudnn']}, driver {gpu['driver'] or 'unknown'},"
        f" Python {machine['python']}, commit {machine['commit']}",
    )


def main(name: str, quick: bool) -> int:
    """Check the GPU of that ``name``; returns the exit code: 0 all checks pass, 1 one fails, 2 it does not exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product: makes them reproducible
    device, reason = _find_gpu(name)
    if device is None:
        print(reason, file=sys.stderr)
        return 2
    torch.cuda.set_device(device)
    return 0 if run_checks(checks(quick), device, lambda line: print(line, flush=True)) else 1


def _find_gpu(name: str) -> tuple[torch.device | None, str]:
    """The GPU of that name with its number, or why it cannot be checked."""
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        return None, f"device: {name!r} is not one of cuda, cuda:N; this program checks a GPU"
    reason = why_no_gpu()
    if reason:
        return None, f"no GPU to check: {reason}"
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        return None, f"device: {name!r} does not exist; this machine has {count} GPU(s), numbered from cuda:0"
    return torch.device("cuda", index), ""
