"""How long updates take on a GPU: shown, as ratios to an update without noise; nothing fails for being slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from smoothout.benchmark.gpu_check.check import Found, not_checked
from smoothout.benchmark.gpu_check.small import CLASSES, LR
from smoothout.benchmark.timing import seconds
from smoothout.data.split import Split
from smoothout.nn.options import NoiseScaling, Precision
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine, Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

SMOOTHOUT, ADASMOOTHOUT = NoiseConfig(0.0375), NoiseConfig(0.15, scaling=NoiseScaling.filter)
METHODS = {
    "plain": (NoiseConfig(), Launch.graph),
    "SmoothOut": (SMOOTHOUT, Launch.graph),
    "AdaSmoothOut": (ADASMOOTHOUT, Launch.graph),
    "SmoothOut eager": (SMOOTHOUT, Launch.eager),
}
FOREVER = 10**6  # epochs
BLOCK, BLOCKS, ENOUGH = 10, 4, 1.0  # updates that are timed together; so many times at most, or so many seconds


@dataclass(frozen=True)
class Setting:
    """A network at a batch size, as it is trained.

    Args:
        build: makes the network.
        shape: of its images; ``examples``: how many an epoch has.
        batch: examples an update.
    """

    build: Callable[[tuple[int, int, int], int], nn.Module]
    shape: tuple[int, int, int]
    examples: int
    batch: int


def times(device: torch.device, setting: Setting, precision: Precision, methods: tuple[str, ...]) -> Found:
    """Seconds of an update without noise, and how many times as long one of each method takes."""
    if precision is Precision.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return not_checked("this GPU has no instructions for bfloat16")
    taken: dict[str, float | None] = {}
    for method in methods:
        try:
            taken[method] = _seconds(device, setting, precision, method)
        except torch.OutOfMemoryError:
            taken[method] = None
        torch.cuda.empty_cache()
    plain = taken.pop("plain")
    if plain is None:
        return not_checked("it does not fit this GPU's memory")
    ratios = (f"{name} {'does not fit' if took is None else f'x {took / plain:.2f}'}" for name, took in taken.items())
    return Found(None, f"plain {1000 * plain:.3g} ms ({setting.batch / plain:,.0f} images/s), " + ", ".join(ratios))


def _seconds(device: torch.device, setting: Setting, precision: Precision, method: str) -> float:
    """Of an update, by the fastest block: what else a machine does only adds."""
    steps = _updates(device, setting, precision, *METHODS[method])
    _advance(steps, 3)  # recordings, of updates that measure curvature and of others
    fastest, spent = float("inf"), 0.0
    for _ in range(BLOCKS):
        took = seconds(partial(_advance, steps, BLOCK), device)
        fastest, spent = min(fastest, took), spent + took
        if spent > ENOUGH:
            break
    return fastest / BLOCK


def _advance(steps: Iterator[TrainingState], count: int) -> None:
    for _ in range(count):
        next(steps)


def _updates(
    device: torch.device, setting: Setting, precision: Precision, noise: NoiseConfig, launch: Launch
) -> Iterator[TrainingState]:
    torch.manual_seed(0)
    whole = setting.examples // setting.batch * setting.batch  # a smaller last batch would be recorded meanwhile
    return iter(
        Trainer(
            setting.build(setting.shape, CLASSES).to(device),
            _noise_images(setting.shape, whole, device),
            _noise_images(setting.shape, 100, device),
            optimizer=Adam(LR),
            schedule=Schedule(FOREVER),
            batch=Batch(setting.batch),
            noise=noise,
            seed=0,
            precision=precision,
            engine=Engine(launch),
        )
    )


def _noise_images(shape: tuple[int, int, int], examples: int, device: torch.device) -> Split:
    channels, *sides = shape
    pixels: Any = torch.randint(0, 256, (examples, *sides, channels), dtype=torch.uint8, device=device)
    labels = torch.randint(0, CLASSES, (examples,), device=device)
    return Split(pixels, labels, (0.5,) * channels, (0.5,) * channels)
