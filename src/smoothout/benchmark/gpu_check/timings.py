"""How long updates take on a GPU: shown as ratios to an update without noise; nothing fails for being slow."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from smoothout.benchmark.gpu_check.check import Finding, not_checked
from smoothout.benchmark.timing import seconds
from smoothout.benchmark.workloads import ADASMOOTHOUT, PLAIN, SMOOTHOUT, Workload, advance, updates
from smoothout.nn.options import Precision
from smoothout.training.engine import Engine, Launch

METHODS = {
    "plain": (PLAIN, Launch.graph),
    "SmoothOut": (SMOOTHOUT, Launch.graph),
    "AdaSmoothOut": (ADASMOOTHOUT, Launch.graph),
    "SmoothOut eager": (SMOOTHOUT, Launch.eager),
}
BLOCK = 10  # updates that are timed together
MAX_BLOCKS, MAX_SECONDS = 4, 1.0  # of one timing


def time_methods(
    device: torch.device, workload: Workload, batch: int, precision: Precision, methods: Iterable[str] = METHODS
) -> Finding:
    """Seconds of an update without noise, and how many times as long one of each method takes."""
    if precision is Precision.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return not_checked("this GPU has no instructions for bfloat16")
    taken: dict[str, float | None] = {}
    for method in methods:
        try:
            taken[method] = _seconds(device, workload, batch, precision, method)
        except torch.OutOfMemoryError:
            taken[method] = None
        torch.cuda.empty_cache()
    plain = taken.pop("plain")
    if plain is None:
        return not_checked("it does not fit this GPU's memory")
    ratios = (f"{name} {'does not fit' if took is None else f'x {took / plain:.2f}'}" for name, took in taken.items())
    return Finding(None, f"plain {1000 * plain:.3g} ms ({batch / plain:,.0f} images/s), " + ", ".join(ratios))


def _seconds(device: torch.device, workload: Workload, batch: int, precision: Precision, method: str) -> float:
    """Seconds of an update, from the fastest block: whatever else a machine does only adds to it."""
    noise, launch = METHODS[method]
    examples = workload.examples // batch * batch  # a smaller last batch would be captured while it is timed
    engine = Engine(launch)
    steps = updates(workload, device, batch=batch, examples=examples, method=noise, precision=precision, engine=engine)
    advance(steps, 3)  # captures the updates that measure curvature, and the others
    blocks: list[float] = []
    while len(blocks) < MAX_BLOCKS and sum(blocks) <= MAX_SECONDS:
        blocks.append(seconds(partial(advance, steps, BLOCK), device))
    return min(blocks) / BLOCK
