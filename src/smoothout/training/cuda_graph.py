"""An update recorded as a CUDA graph: once for every kind of update, checked against an eager one, then replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

WARM_UP = 3  # eager updates before a recording: libraries initialise themselves, the optimizer makes its state
TOLERANCE = 0.25  # of the way that the eager update goes, see `difference`
STRICT = {"loss and accuracy": 0.02}  # what no optimizer has scaled
ROUNDING = 1e-6  # of the tensors' own size

State = Mapping[str, Sequence[Tensor]]
Step = Callable[[Tensor], None]


class RecordingError(RuntimeError):
    """An update that could not be recorded; everything that the attempt changed has been restored."""


class Lane:
    """Where one training records: a stream and a memory pool of its own, on its device.

    cuBLAS keeps one workspace per stream, and a graph goes on using the workspace of the stream that it was recorded
    on. Trainings that run at the same time must therefore record on different streams. Where the caller has put the
    training on a stream, it records on that one, for every further stream costs a workspace for good. The recordings
    of one training never run at the same time, so they share a pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            present = torch.cuda.current_stream(device)
            by_caller = present != torch.cuda.default_stream(device)
            self._stream: Any = present if by_caller else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool: Any = torch.cuda.graph_pool_handle()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block the device is current and its work goes onto the stream, after all that came before.

        cuDNN chooses its algorithms by trying them: those that the warm-up has found serve the recording.
        """
        present, tried = torch.cuda.current_stream(self._device), torch.backends.cudnn.benchmark
        self._stream.wait_stream(present)
        torch.backends.cudnn.benchmark = True
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                yield
        finally:
            torch.backends.cudnn.benchmark = tried
            present.wait_stream(self._stream)

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """A function that replays ``work``, which is recorded here and not carried out."""
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # from there on torch registers generators by itself, and warns
            for generator in generators:
                graph.register_generator_state(generator)
        # When a capture fails, torch leaves its stream current: the outer context takes it back.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


class _Recording(NamedTuple):
    rows: Tensor  # where the replay finds its row numbers
    replay: Callable[[], None]


class GraphedStep:
    """Carries out updates by replaying CUDA graphs, one for every number of rows and kind of update.

    The first call for each kind runs the update eagerly (the warm-up), restores the state, records the update and
    replays the recording. The recording is kept only if the replay ended where the eager update had ended, in the same
    tensors. So an update that depends on something a graph does not see, such as a number on the host, is found out
    where that moves its end by more than the tolerance; whatever is not in ``state_dict`` is neither restored nor
    compared. Only this first call waits for the device.

    It keeps no reference to what it is called with. The memory of its recordings is free as soon as it is dropped.

    Args:
        device: a CUDA device.
        generators: what the update draws from; each replay draws from them as they are then.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device, self._generators = device, generators
        self._lane: Lane | None = None
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, work: Step, rows: Tensor, state: Callable[[], State], variant: Hashable = None) -> None:
        """Do ``work(rows)``.

        Args:
            work: does everything on the device, waits for nothing, and writes its results into ``state_dict``.
            rows: row numbers on the device, shape (n,).
            state: gives all tensors that ``work`` changes, by role. Those that it creates in its first run must come
                last within their role and begin as zeros.
            variant: tells apart kinds of work that need a recording of their own.

        Raises:
            RecordingError: where the work cannot be recorded, or its replay ends elsewhere.
            torch.OutOfMemoryError: where memory does not suffice for a recording. State and generators are then as
                they were before the call, as after any other error.
        """
        kind = len(rows), variant
        if kind not in self._recordings:
            self._recordings[kind] = self._recorded(work, rows.clone(), state)
            return
        recording = self._recordings[kind]
        recording.rows.copy_(rows)
        recording.replay()

    def _recorded(self, work: Step, rows: Tensor, state: Callable[[], State]) -> _Recording:
        self._lane = lane = self._lane or Lane(self._device)
        before, chance = _copied(state()), [generator.get_state() for generator in self._generators]

        def restore() -> None:
            _restore(state(), before)
            for generator, its_state in zip(self._generators, chance, strict=True):
                generator.set_state(its_state)

        try:
            with lane.entered():
                work(rows)
                eager = _copied(state())
                for _ in range(WARM_UP - 1):
                    work(rows)
                restore()
                addresses = _addresses(state())
                with _failures_named():
                    replay = lane.capture(lambda: work(rows), self._generators)
            with _failures_named():
                replay()
            _refuse_replaced(state(), addresses)
            _compare(state(), eager, before)
        except BaseException:
            restore()
            raise
        return _Recording(rows, replay)


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turn what a capture or replay fails by into a RecordingError with torch's first error."""
    try:
        yield
    except Exception as error:
        # The last error says no more than that a capture was broken off; the first in the chain says by what.
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        raise RecordingError(" ".join(str(first).split()) or type(first).__name__) from error


def _copied(state: State) -> dict[str, list[Tensor]]:
    return {role: [tensor.clone() for tensor in tensors] for role, tensors in state.items()}


def _addresses(state: State) -> dict[str, list[int]]:
    return {role: [tensor.data_ptr() for tensor in tensors] for role, tensors in state.items()}


def _refuse_replaced(state: State, addresses: dict[str, list[int]]) -> None:
    """Raise RecordingError where tensors have moved: each replay would begin at the old ones again."""
    if _addresses(state) != addresses:
        raise RecordingError("the update replaces tensors where it should write into them")


@torch.no_grad()
def _restore(state: State, before: State) -> None:
    for role, tensors in state.items():
        for tensor, old in zip_longest(tensors, before.get(role, ())):
            if old is None:
                tensor.zero_()
            elif tensor.shape == old.shape:
                tensor.copy_(old)
            else:  # the update has put a tensor of another size in its place
                tensor.resize_(old.shape).copy_(old)


def _compare(found: State, eager: State, before: State) -> None:
    """Raise RecordingError where a replay that started at ``before`` ended elsewhere than the eager update did."""
    apart = {role: difference(tensors, eager[role], before.get(role, ())) for role, tensors in found.items()}
    for role, share in apart.items():
        if share > STRICT.get(role, TOLERANCE):
            raise RecordingError(
                f"the first replay and the eager update end apart: {role} by {share:.2g} of their change"
            )


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """How far ``found`` is from ``wanted``, as a share of the way from ``before`` to ``wanted``; missing ones
    were 0.

    It is the norm over all tensors together, less what the rounding of the tensors themselves explains. The same
    kernels give the same bits; kernels that add up in another order at every run do not. Then a share of the way may
    differ, because Adam makes full steps of gradients that are pure rounding (a bias before BatchNorm). Work that saw
    other rows, other noise or another start ends a whole way apart. Integers must be equal, else it is infinite.
    """
    if len(found) != len(wanted):
        return math.inf
    gap, way, size = list[Tensor](), list[Tensor](), list[Tensor]()
    for tensor, target, old in zip_longest(found, wanted, before):
        if tensor.shape != target.shape:
            return math.inf
        if not tensor.is_floating_point():  # a counter's step would hide how far the others are apart
            if not torch.equal(tensor, target):
                return math.inf
            continue
        # A diverged training has the same nan in both.
        now, end, start = (_finite(one) for one in (tensor, target, torch.zeros_like(target) if old is None else old))
        for sums, part in ((gap, now - end), (way, end - start), (size, end)):
            sums.append(part.square().sum())
    norms = (torch.stack(sums).sum().sqrt() for sums in (gap, way, size))
    distance, length, rounding = torch.stack([*norms]).tolist() if gap else (0.0, 0.0, 0.0)
    excess = distance - ROUNDING * rounding
    return 0.0 if excess <= 0 else excess / length if length else math.inf


def _finite(tensor: Tensor) -> Tensor:
    return tensor.detach().double().nan_to_num(posinf=1e30, neginf=-1e30)
