"""What a training can go on from, and its weights when it is done: tensors and one JSON string, in one whole file."""

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
    """A training between two updates.

    Attributes:
        model: state dict, BatchNorm's running averages included.
        best: state dict at the end of the epoch with the best test accuracy so far (empty before the first).
        optimizer: state dict of the optimizer (empty once the training is done).
        sums: loss and right answers over the present epoch's examples so far, shape (2,), float64.
        epoch: epochs done; ``step``: updates done in the present one; ``elapsed``: seconds spent on it.
        curves: one list of numbers an entry of CURVES, one number an epoch.
        curvature: for every epoch of a noisy training, the Hessian's trace as ``curvature.RunningTrace`` estimates it.
        trace: that estimate's sums over the present epoch so far.
        machines: every environment the run was trained in, the first one first.
        data_sha256: fingerprint of the data set, None in checkpoints of earlier versions.
        method: further tensors of the method's, by name; absent from a checkpoint if there are none.
    """

    model: StateDict
    optimizer: dict[str, Any]
    best: StateDict
    sums: Tensor
    epoch: int = 0
    step: int = 0
    elapsed: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})
    curvature: list[dict[str, Any]] = field(default_factory=list)
    trace: dict[str, Any] = field(default_factory=dict)
    machines: list[dict[str, Any]] = field(default_factory=list)
    data_sha256: str | None = None
    method: StateDict = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 0) with the best test accuracy."""
        return max(range(len(self.curves["test_accuracy"])), key=self.curves["test_accuracy"].__getitem__)

    @property
    def diverged(self) -> bool:
        """Whether the loss was no longer finite in the last epoch."""
        losses = self.curves["train_loss"][-1:] + self.curves["test_loss"][-1:]
        return not all(map(math.isfinite, losses))


_TENSORS = ("model", "optimizer", "best", "sums", "method")
_NUMBERS = ("epoch", "step", "elapsed", "curves", "curvature", "trace", "machines", "data_sha256")


def save(path: Path, snapshot: TrainingState, digest: str) -> None:
    """Write ``snapshot`` of the run ``digest`` to ``path``, whole or not at all."""
    numbers = {"digest": digest, **{name: getattr(snapshot, name) for name in _NUMBERS}}
    tensors = {name: getattr(snapshot, name) for name in _TENSORS if name != "method" or snapshot.method}
    content = {**tensors, "json": json.dumps(numbers)}
    with atomic_write(path) as part, part.open("wb") as file:  # given a path, torch hides why it cannot write
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a disk that is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, digest: str, device: torch.device | str = "cpu") -> TrainingState:
    """The snapshot at ``path``, on ``device``.

    Raises CheckpointError when the file is damaged, holds anything but tensors and plain values, or belongs to another
    run than ``digest``; what is the machine's fault is raised as it is.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        numbers = json.loads(content.pop("json"))
        owner = numbers.pop("digest")
        snapshot = TrainingState(**content, **numbers)
        _check(snapshot)
    except Exception as error:  # torch raises almost anything on a file that is not its own
        if machine_error_hint(error):
            raise
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        fault = f"is damaged or no checkpoint of this program ({reason}); delete it to train anew"
        raise CheckpointError(f"checkpoint: {path} {fault}") from error
    if owner != digest:
        raise CheckpointError(
            f"checkpoint: {path} belongs to another run ({owner[:8]}, not {digest[:8]}); delete it to train anew"
        )
    return snapshot


def _check(snapshot: TrainingState) -> None:
    """Raise TypeError unless every part has its type: another program's file may have parts of the same names."""
    parts = {
        "weights": all(isinstance(t, Tensor) for t in (*snapshot.model.values(), *snapshot.best.values())),
        "optimizer": isinstance(snapshot.optimizer, dict),
        "sums": isinstance(snapshot.sums, Tensor) and snapshot.sums.shape == (2,),
        "epoch, step": all(isinstance(count, int) and count >= 0 for count in (snapshot.epoch, snapshot.step)),
        "curves": all(isinstance(snapshot.curves[name], list) for name in CURVES),
    }
    wrong = [name for name, sound in parts.items() if not sound]
    if wrong:
        raise TypeError(f"{wrong[0]} of another type")
