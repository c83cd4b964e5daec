"""Copies from the host's memory to a device that the host does not wait for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Transfer:
    """Copies rows of host memory to ``device``.

    To a CUDA device they go from pinned memory, on a stream of their own: beside the work that the device has already,
    and without a wait of the host's. Elsewhere a copy is done when `begin` returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._begun: torch.cuda.Event | None = None

    def room(self, *shape: int) -> Tensor:
        """Uninitialised host memory to copy from, uint8."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)

    def begin(self, *parts: Tensor) -> Tensor:
        """The rows of ``parts``, one behind the other, on the device; its present stream waits for the copy."""
        if self._stream is None:
            return torch.cat(parts).to(self._device)
        with torch.cuda.stream(self._stream):
            moved = [part.to(self._device, non_blocking=True) for part in parts]
            whole = moved[0] if not any(map(len, moved[1:])) else torch.cat(moved)
            # blocking: a thread that waits for it sleeps, and does not spin
            self._begun = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._begun.record(self._stream)
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        whole.record_stream(present)
        return whole

    def read(self) -> Callable[[], None]:
        """A wait, in whatever thread it is called, until the host memory of all copies begun so far has been read."""
        begun = self._begun

        def wait() -> None:
            if begun is not None and not begun.query():  # type: ignore[no-untyped-call]
                begun.synchronize()

        return wait


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor``, on the host, on ``device``: for CUDA from pinned memory, so that the host waits for nothing.

    torch keeps the pinned copy from being used again until it has been read.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
