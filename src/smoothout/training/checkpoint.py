"""Checkpoints: the state of a training as tensors and one JSON string, written atomically."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothout.common.errors import CheckpointError
from smoothout.common.files import atomic_write
from smoothout.common.machine_errors import machine_error_hint

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
StateDict = dict[str, Tensor]


@dataclass
class TrainingState:
    """A training between two updates."""

    model: StateDict  # with BatchNorm's running statistics
    optimizer: dict[str, Any]  # its state dict; empty once the training is done
    best: StateDict  # after the epoch with the best test accuracy so far; empty before the first
    sums: Tensor  # sums of losses and of correct predictions in the current epoch so far, (2,), float64
    epoch: int = 0  # completed epochs
    step: int = 0  # completed updates in the current epoch
    elapsed: float = 0.0  # seconds spent on the current epoch
    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})  # a number per epoch
    curvature: list[dict[str, Any]] = field(default_factory=list)  # from `RunningTrace`, one per epoch with noise
    trace: dict[str, Any] = field(default_factory=dict)  # partial sums of that estimate in the current epoch
    machines: list[dict[str, Any]] = field(default_factory=list)  # every environment of the training, in order
    data_sha256: str | None = None  # fingerprint of the data set; None in checkpoints of earlier versions
    method: StateDict = field(default_factory=dict)  # the method's tensors; absent from a checkpoint if there are none

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 0) with the best test accuracy."""
        return max(range(len(self.curves["test_accuracy"])), key=self.curves["test_accuracy"].__getitem__)

    @property
    def diverged(self) -> bool:
        """Whether the training or test loss of the last epoch is not finite."""
        losses = self.curves["train_loss"][-1:] + self.curves["test_loss"][-1:]
        return not all(map(math.isfinite, losses))


_TENSORS = ("model", "optimizer", "best", "sums", "method")


def save(path: Path, state: TrainingState, digest: str) -> None:
    """Write the ``state`` of the run ``digest`` to ``path``, atomically."""
    parts = vars(state)
    numbers = {"digest": digest, **{name: value for name, value in parts.items() if name not in _TENSORS}}
    tensors = {name: parts[name] for name in _TENSORS if name != "method" or state.method}
    content = {**tensors, "json": json.dumps(numbers)}
    with atomic_write(path) as part, part.open("wb") as file:  # with a path, torch would hide why writing failed
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's error for a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, digest: str, device: torch.device | str = "cpu") -> TrainingState:
    """The state at ``path``, on ``device``.

    Raises CheckpointError if the file is damaged, contains anything but tensors and plain values, or belongs to a run
    other than ``digest``. Disk and memory errors are raised unchanged.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        numbers = json.loads(content.pop("json"))
        owner = numbers.pop("digest")
        state = TrainingState(**content, **numbers)
        _check(state)
    except Exception as error:  # torch.load raises many types of errors for invalid files
        if machine_error_hint(error):
            raise
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        raise CheckpointError(
            f"checkpoint: {path} is damaged, or not a checkpoint of this program ({reason}); delete it to train again"
        ) from error
    if owner != digest:
        raise CheckpointError(
            f"checkpoint: {path} belongs to another run ({owner[:8]}, not {digest[:8]}); delete it to train again"
        )
    return state


def _check(state: TrainingState) -> None:
    """Raise TypeError if an entry has the wrong type or length, as in another program's file with the same keys."""
    tensors = (*state.model.values(), *state.best.values(), *state.method.values())
    curves = [state.curves[name] for name in CURVES]
    parts = {
        "weights": all(isinstance(tensor, Tensor) for tensor in tensors),
        "optimizer": isinstance(state.optimizer, dict),
        "sums": isinstance(state.sums, Tensor) and state.sums.shape == (2,),
        "epoch, step": all(isinstance(count, int) and count >= 0 for count in (state.epoch, state.step)),
        "curves": all(isinstance(curve, list) and len(curve) == state.epoch for curve in curves),
        "numbers": all(isinstance(number, float) for curve in curves for number in curve),
        "best": {name: tensor.shape for name, tensor in state.best.items()}
        == ({name: tensor.shape for name, tensor in state.model.items()} if state.epoch else {}),
        "machines": isinstance(state.machines, list) and all(isinstance(machine, dict) for machine in state.machines),
    }
    wrong = [name for name, valid in parts.items() if not valid]
    if wrong:
        raise TypeError(f"{wrong[0]} does not fit the rest")
