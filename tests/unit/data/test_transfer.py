"""Photographs on their way to a GPU: nobody waits for a copy but the thread that would overwrite what it reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.other_device import DEVICE, OtherDevice
from helpers.small_image_folder import loaded, photos
from torch import Tensor

from smoothout.data import prefetch
from smoothout.data.prefetch import Pixels, PrefetchReader
from smoothout.data.transfer import Transfer, sent

CPU = torch.device("cpu")


class LateTransfer(Transfer):
    """Reads the host's memory as late as it may: when somebody waits for that, or at the end."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._copies: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        self._lock, self._read = threading.Lock(), 0

    def begin(self, *parts: Tensor) -> Tensor:
        whole = torch.zeros_like(torch.cat(parts))
        with self._lock:
            self._copies.append((whole, parts))
        return whole

    def read(self) -> Callable[[], None]:
        return partial(self.finish, len(self._copies))

    def finish(self, begun: int) -> None:
        with self._lock:
            for whole, parts in self._copies[self._read : begun]:
                torch.cat(parts, out=whole)
            self._read = max(self._read, begun)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [4, 5])
def test_no_place_of_the_ring_is_overwritten_before_the_device_has_read_it(
    workers: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "Transfer", LateTransfer)

    def decode(row: int, out: Pixels) -> None:
        out[...] = row

    reader = PrefetchReader(2, workers, CPU)
    reader.schedule(torch.arange(60), decode)
    batches = torch.arange(60).split(size)
    squares = [reader.gather(rows) for rows in batches]
    reader._transfer.read()()
    for rows, found in zip(batches, squares, strict=True):
        assert found[:, 0, 0, 0].tolist() == rows.tolist()


class Stream:
    """A CUDA stream that is not there; it may be waited for by other streams alone."""

    def __init__(self, device: Any = None) -> None:
        self.waits_for: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waits_for.append(other)

    def synchronize(self) -> None:
        pytest.fail("the host waited for a stream")


class Event:
    """An event that is reached when ``reached`` is set."""

    def __init__(self, **_: Any) -> None:
        self.reached, self.waits = False, 0

    def record(self, stream: Any) -> None:
        self.stream = stream

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.waits += 1


def test_to_a_gpu_copies_go_on_a_stream_of_their_own_and_only_streams_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    present, events = Stream(), []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.cuda, "Event", lambda **settings: events.append(Event()) or events[-1])
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    transfer = Transfer(torch.device("cuda"))
    transfer._device = CPU
    transfer.read()()  # nothing was begun
    rows = torch.arange(6).view(3, 2)
    assert torch.equal(transfer.begin(rows[:2], rows[2:]), rows)
    until_first = transfer.read()
    assert torch.equal(transfer.begin(rows, rows[:0]), rows)
    assert present.waits_for == [transfer._stream, transfer._stream]
    assert [event.stream for event in events] == [transfer._stream] * 2
    until_first()
    assert [event.waits for event in events] == [1, 0]
    events[1].reached = True
    transfer.read()()
    assert [event.waits for event in events] == [1, 0], "what is known to be over is not waited for"


def test_labels_go_to_a_gpu_from_pinned_memory_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(Tensor, "to", lambda tensor, *where, **how: calls.append((where, how)) or tensor)
    labels = torch.arange(3)
    assert sent(labels, CPU) is labels
    assert sent(labels, torch.device("cuda", 1)) is labels
    assert calls == [((CPU,), {}), "pinned", ((torch.device("cuda", 1),), {"non_blocking": True})]


def test_labels_on_the_device_are_never_chosen_by_rows_on_the_host(folder: Path) -> None:
    """That would be a copy of the rows, and a wait for all that the device has still to do."""
    here, rows = loaded(folder)[0], torch.tensor([5, 0, 9])
    with OtherDevice():
        split = photos().load(folder, DEVICE)[0]
        learnt = split.training_view(None, 0)
        learnt.prefetch(rows, 0)
        for taken in (split.gather(rows), learnt.gather(rows)):
            for away, expected in zip(taken, here.gather(rows), strict=True):
                assert away.device == DEVICE
                assert torch.equal(away.cpu(), expected)
