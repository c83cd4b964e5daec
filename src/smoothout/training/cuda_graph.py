"""Updates as CUDA graphs: captured once per kind of update, checked against an eager update, then replayed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # eager updates before a capture: libraries initialize, and the optimizer creates its state
TOLERANCE = 0.25  # relative to the change that the eager update makes, see `difference`
STRICT = {"loss and accuracy": 0.02}  # tolerance for numbers that the optimizer does not scale
ROUNDING = 1e-6  # relative to the size of the tensors

State = Mapping[str, Sequence[Tensor]]
Step = Callable[[Tensor], None]


class CaptureError(RuntimeError):
    """An update that could not be captured; all state has been restored."""


class CaptureStream:
    """The stream and the memory pool in which one training captures its graphs.

    cuBLAS keeps one workspace per stream, and a graph keeps using the workspace of the stream that captured it, so
    concurrent trainings must capture on different streams. If the caller runs the training on a non-default stream,
    that stream is used, because the workspace of an additional stream would never be freed. The graphs of one training
    never run concurrently, so they share a pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            current = torch.cuda.current_stream(device)
            by_caller = current != torch.cuda.default_stream(device)
            self._stream: Any = current if by_caller else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool: Any = torch.cuda.graph_pool_handle()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the device and the stream current; work on the stream starts after all earlier work.

        cuDNN benchmarks its algorithms during the warm-up, and the capture uses the fastest.
        """
        current, benchmark = torch.cuda.current_stream(self._device), torch.backends.cudnn.benchmark
        self._stream.wait_stream(current)
        torch.backends.cudnn.benchmark = True
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
            current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """Capture ``work`` without running it; returns a function that replays it."""
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # later versions register generators automatically, and warn here
            for generator in generators:
                graph.register_generator_state(generator)
        # When a capture fails, torch leaves its stream current; the outer context restores the previous one.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


class GraphedStep:
    """Runs updates by replaying CUDA graphs, one per number of rows and variant of the update.

    The first call for each kind runs the update eagerly (the warm-up), restores the state, captures the update and
    replays the graph. The graph is kept only if the replay and the eager update give the same result in the same
    tensors. This detects updates that depend on something outside the graph, such as a number on the host, if the
    result changes by more than the tolerance. Tensors outside ``state`` are neither restored nor compared. Only the
    first call waits for the device.

    Each replay uses the current state of ``generators``. The object keeps no reference to the arguments of a call.
    Deleting it frees the memory of its graphs.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device, self._generators = device, generators
        self._stream: CaptureStream | None = None
        self._graphs: dict[Hashable, tuple[Tensor, Callable[[], None]]] = {}  # rows to write, replay

    def __call__(self, work: Step, rows: Tensor, state: Callable[[], State], variant: Hashable = None) -> None:
        """Run ``work(rows)``.

        Args:
            work: runs entirely on the device without synchronizing, and writes its results into ``state``.
            rows: row numbers on the device, (n,).
            state: returns all tensors that ``work`` changes, by role. Tensors created in its first run must come last
                within their role and start as zeros.
            variant: distinguishes kinds of work that need separate graphs.

        Raises:
            CaptureError: if the work cannot be captured, or its replay gives a different result. After any error
                (torch.OutOfMemoryError too), state and generators are as before the call.
        """
        kind = len(rows), variant
        if kind in self._graphs:
            static_rows, replay = self._graphs[kind]
            static_rows.copy_(rows)
            replay()
        else:
            static_rows = rows.clone()
            self._graphs[kind] = static_rows, self._capture(work, static_rows, state)

    def _capture(self, work: Step, rows: Tensor, state: Callable[[], State]) -> Callable[[], None]:
        self._stream = stream = self._stream or CaptureStream(self._device)
        before, random_states = _copied(state()), [generator.get_state() for generator in self._generators]

        def restore() -> None:
            _restore(state(), before)
            for generator, random_state in zip(self._generators, random_states, strict=True):
                generator.set_state(random_state)

        try:
            # Warm up; the replay is compared with the first run.
            with stream.entered():
                work(rows)
                eager = _copied(state())
                for _ in range(WARM_UP - 1):
                    work(rows)
                restore()
                addresses = _addresses(state())
                with _as_capture_errors():
                    replay = stream.capture(lambda: work(rows), self._generators)
            # This replay is the requested update, provided that it matches the eager one.
            with _as_capture_errors():
                replay()
            _check_replay(state(), addresses, eager, before)
        except BaseException:
            restore()
            raise
        return replay


@contextmanager
def _as_capture_errors() -> Iterator[None]:
    """Turn the failure of a capture or replay into a CaptureError with torch's first error."""
    handled = sys.exc_info()[1]  # an exception that the caller handles ends the chain, and is not the cause
    try:
        yield
    except Exception as error:
        # The last error only says that a capture failed; the first in the chain says why.
        first: BaseException = error
        while first.__context__ is not None and first.__context__ is not handled:
            first = first.__context__
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        raise CaptureError(" ".join(str(first).split()) or type(first).__name__) from error


def _copied(state: State) -> dict[str, list[Tensor]]:
    return {role: [tensor.clone() for tensor in tensors] for role, tensors in state.items()}


def _addresses(state: State) -> dict[str, list[int]]:
    return {role: [tensor.data_ptr() for tensor in tensors] for role, tensors in state.items()}


@torch.no_grad()
def _restore(state: State, before: State) -> None:
    for role, tensors in state.items():
        for tensor, old in zip_longest(tensors, before.get(role, ())):
            if old is None:
                tensor.zero_()
            elif tensor.shape == old.shape:
                tensor.copy_(old)
            else:  # the update has replaced it with a tensor of another size
                tensor.resize_(old.shape).copy_(old)


def _check_replay(replayed: State, addresses: dict[str, list[int]], eager: State, before: State) -> None:
    """Raise CaptureError if a replay and the eager update, both from ``before``, gave different results."""
    if _addresses(replayed) != addresses:  # every replay would start from the old tensors
        raise CaptureError("the update replaces tensors instead of writing into them")
    for role, tensors in replayed.items():
        share = difference(tensors, eager[role], before.get(role, ()))
        if share > STRICT.get(role, TOLERANCE):
            raise CaptureError(f"the first replay and the eager update differ: {role} by {share:.2g} of their change")


def difference(actual: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """||actual - expected|| / ||before - expected||; tensors missing in ``before`` count as zeros.

    The norms are over all tensors together. The part that rounding explains is subtracted from the numerator.
    Deterministic kernels give 0. Nondeterministic sums give a fraction, because Adam takes full steps along gradients
    that are pure rounding error (a bias before BatchNorm). Different rows, noise or initial weights give about 1.
    Unequal integers give infinity.
    """
    if len(actual) != len(expected):
        return math.inf
    gap, change, size = list[Tensor](), list[Tensor](), list[Tensor]()
    for tensor, target, old in zip_longest(actual, expected, before):
        if tensor.shape != target.shape:
            return math.inf
        if not tensor.is_floating_point():  # a counter would dominate the norm
            if not torch.equal(tensor, target):
                return math.inf
            continue
        # After divergence, both have the same nan.
        now, end, start = (_finite(t) for t in (tensor, target, torch.zeros_like(target) if old is None else old))
        for sums, part in ((gap, now - end), (change, end - start), (size, end)):
            sums.append(part.square().sum())
    norms = (torch.stack(sums).sum().sqrt() for sums in (gap, change, size))
    distance, length, rounding = torch.stack([*norms]).tolist() if gap else (0.0, 0.0, 0.0)
    excess = distance - ROUNDING * rounding
    return 0.0 if excess <= 0 else excess / length if length else math.inf


def _finite(tensor: Tensor) -> Tensor:
    return tensor.detach().double().nan_to_num(posinf=1e30, neginf=-1e30)
