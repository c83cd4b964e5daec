"""The curves of a training for TensorBoard, epoch by epoch. A full disk stops the log, not the training."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from smoothout.training.checkpoint import TrainingState


class CurveLog:
    """Appends to a file in ``folder``, in this thread to handle errors (torch's SummaryWriter uses another thread).

    ``epochs_done`` epochs were written before; TensorBoard hides later epochs of earlier files.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self._path: Path | None = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._written = epochs_done
        self._events = [
            Event(wall_time=time.time(), step=epochs_done, file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=epochs_done, session_log=SessionLog(status=SessionLog.START)),
        ]

    def write(self, state: TrainingState) -> None:
        """Append the epochs of ``state`` that were not written yet; warns once if the file cannot be written."""
        if self._path is None or self._written == state.epoch:
            return
        for epoch in range(self._written, state.epoch):
            values = [Summary.Value(tag=name, simple_value=curve[epoch]) for name, curve in state.curves.items()]
            self._events.append(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                for event in self._events:
                    RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            place = f"folders.logs: {self._path.parent}: {error.strerror}"
            warnings.warn(f"{place}; training continues without curves for TensorBoard", stacklevel=2)
            self._path = None
        self._events, self._written = [], state.epoch
