"""Two processes that share trainings, each with one thread or a GPU: their group, and the timings of `Scaling`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from smoothout.benchmark.scaling import EMPTY, HALF, MESSAGE, SHARED, WHOLE, Scaling, Times
from smoothout.benchmark.timing import seconds
from smoothout.benchmark.workloads import C1, F1, RESNET18, SMOOTHOUT, Workload, random_split, updates
from smoothout.data.split import Split
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, Launch
from smoothout.training.noise_contexts import CURVATURE_DRAWS
from smoothout.training.optimizers import SGD

WORKLOADS: dict[str, Workload] = {"f1": F1, "c1": C1, "resnet18": RESNET18}


def join_pair(rank: int, kind: str, rendezvous: str, **settings: Any) -> torch.device:
    """Make this process rank ``rank`` of two with one thread, on a CPU or on the GPU of that number."""
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=2, **settings)
    return device


def leave_pair() -> None:
    """Wait for the other process, and end the group."""
    dist.barrier()
    dist.destroy_process_group()


def time_updates(settings: Scaling, device: str) -> tuple[Times, Times, int]:
    """Every turn's seconds and CPU seconds, by what was timed, and the size of a message in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "times.json")
        spawn(_time, (settings, device, f"{folder}/rendezvous", answer), nprocs=2)  # type: ignore[no-untyped-call]
        times, cpu_times, size = json.loads(answer.read_text(encoding="utf-8"))
    return times, cpu_times, size


def _time(rank: int, settings: Scaling, kind: str, rendezvous: str, answer: Path) -> None:
    """Time everything in turn, as one of two processes; rank 0 writes the ``answer``."""
    device = join_pair(rank, kind, rendezvous)
    pair, alone = ProcessGroup(rank, 2), ProcessGroup()
    workload = WORKLOADS[settings.network]
    count = CURVATURE_DRAWS * (settings.turns + 2)  # so that only the first update measures curvature
    images = random_split(workload.shape, workload.classes, count * settings.ghosts * settings.ghost, device)
    shared = _updates(settings, images, pair, settings.ghosts)
    whole, half = (_updates(settings, images, alone, settings.ghosts // part) for part in (1, 2))
    model = next(shared).model
    gradients = torch.zeros(sum(tensor.numel() for tensor in model.values()), device=device)
    two_numbers = torch.zeros(2, device=device)
    works: dict[str, Any] = {
        WHOLE: lambda: rank or next(whole),
        HALF: lambda: rank or next(half),
        SHARED: lambda: (next(shared), pair.agree_to_stop()),
        MESSAGE: lambda: pair.all_reduce([gradients]),
        EMPTY: lambda: pair.all_reduce([two_numbers]),
    }
    times, cpu_times = ({name: list[float]() for name in works} for _ in range(2))
    for turn in range(1 + settings.turns):
        for name, work in works.items():
            dist.barrier()
            since = time.process_time()
            took = seconds(work, device)
            if turn:  # the first one warms up
                times[name].append(took)
                cpu_times[name].append(time.process_time() - since)
    if rank == 0:
        size = gradients.numel() * gradients.element_size()
        answer.write_text(json.dumps((times, cpu_times, size)), encoding="utf-8")
    leave_pair()


def _updates(settings: Scaling, images: Split, ranks: ProcessGroup, ghosts: int) -> Iterator[TrainingState]:
    """A training on this rank; each step of the iterator is an update."""
    return updates(
        WORKLOADS[settings.network],
        images.labels.device,
        batch=Batch(settings.ghost * ghosts, settings.ghost),
        data=images,
        method=SMOOTHOUT,
        optimizer=SGD(1e-3),
        engine=Engine(Launch.eager),  # several processes must be eager, and one is compared with them
        ranks=ranks,
    )
